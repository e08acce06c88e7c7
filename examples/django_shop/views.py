"""The shop's pages."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import aget_object_or_404, get_object_or_404, render

from django_shop import supplier
from django_shop.models import Order, Product, load_baskets
from shop import baskets, prices


def products(request: HttpRequest) -> HttpResponse:
    """The newest products."""
    return render(request, "products.html", {"products": Product.objects.order_by("-id")[:24]})


def product(request: HttpRequest, product_id: int) -> HttpResponse:
    """One product with its volume prices and what else was bought."""
    found = get_object_or_404(Product, pk=product_id)
    close = baskets.also_bought(product_id, load_baskets())
    by_id = Product.objects.in_bulk(close)
    context = {
        "product": found,
        "prices": prices.volume_prices(found.price_cents),
        "also_bought": [by_id[other] for other in close],
    }
    return render(request, "product.html", context)


async def availability(request: HttpRequest, product_id: int) -> JsonResponse:
    """Pieces in stock, as JSON."""
    found = await aget_object_or_404(Product, pk=product_id)
    return JsonResponse({"product": found.name, "stock": await supplier.stock(product_id)})


def latest_orders(request: HttpRequest) -> HttpResponse:
    """The latest orders with their items."""
    orders = Order.objects.select_related("customer").order_by("-ordered_on", "-id")[:100]
    return render(request, "orders.html", {"orders": orders})


def invoice(request: HttpRequest, order_id: int) -> HttpResponse:
    """The invoice of one order."""
    order = get_object_or_404(Order.objects.select_related("customer"), pk=order_id)
    average = prices.average_piece_price(order.total_cents, order.pieces)
    return render(request, "invoice.html", {"order": order, "average": average})


def health(request: HttpRequest) -> JsonResponse:
    """Whether the shop answers."""
    return JsonResponse({"status": "ok"})
