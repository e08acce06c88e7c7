"""Where the pages are."""

from django.urls import path

from django_shop import views

urlpatterns = [
    path("", views.products, name="products"),
    path("products/<int:product_id>", views.product, name="product"),
    path("products/<int:product_id>/availability", views.availability, name="availability"),
    path("orders", views.latest_orders, name="orders"),
    path("orders/<int:order_id>/invoice", views.invoice, name="invoice"),
    path("health", views.health, name="health"),
]
