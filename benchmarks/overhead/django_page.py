"""A Django page with an N+1: the settings, the model and the view in one module."""

from __future__ import annotations

from typing import Any

SECRET_KEY = "benchmark"  # not a secret: no cookie is ever signed
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.overhead.django_page"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
USE_TZ = True

ORDERS = 40
_PAGE = """<table>{% for order in orders %}
<tr class="{% cycle 'odd' 'even' %}"><td>{{ order.id }}</td><td>{{ order.customer.name|title }}</td>
<td>{{ order.total|floatformat:2 }}</td>{% if order.total > 30 %}<td>large</td>{% endif %}</tr>
{% endfor %}</table>"""

urlpatterns: list[Any] = []


def make_application() -> Any:
    """The WSGI application, with its tables filled."""
    import django
    from django.core.wsgi import get_wsgi_application
    from django.db import connection, models
    from django.http import HttpResponse
    from django.template import engines
    from django.urls import path

    django.setup()

    class Customer(models.Model):
        name = models.CharField(max_length=50)

        class Meta:
            app_label = "shop"

    class Order(models.Model):
        customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
        total = models.FloatField()

        class Meta:
            app_label = "shop"

    with connection.schema_editor() as editor:
        editor.create_model(Customer)
        editor.create_model(Order)
    for number in range(ORDERS):
        customer = Customer.objects.create(name=f"customer {number}")
        Order.objects.create(customer=customer, total=number * 1.5)
    template = engines["django"].from_string(_PAGE)

    def orders(_request: Any, shop: int) -> HttpResponse:
        found = Order.objects.filter(total__gte=0).order_by("id")[:ORDERS]
        return HttpResponse(template.render({"orders": found, "shop": shop}))

    urlpatterns[:] = [path("shops/<int:shop>/orders", orders)]
    return get_wsgi_application()
