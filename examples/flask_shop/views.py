"""The shop's pages."""

from flask import Blueprint, Response, abort, current_app, jsonify, render_template

from flask_shop import catalogue, orders, supplier
from shop import baskets, prices

shop = Blueprint("shop", __name__)
shop.add_app_template_filter(prices.euro)


@shop.get("/")
def products() -> str:
    """The newest products."""
    return render_template("products.html", products=catalogue.newest_products())


@shop.get("/products/<int:product_id>")
def product(product_id: int) -> str:
    """One product with its volume prices and what else was bought."""
    found = catalogue.find_product(product_id) or abort(404)
    return render_template(
        "product.html",
        product=found,
        prices=prices.volume_prices(found.price_cents),
        also_bought=catalogue.products_by_id(baskets.also_bought(product_id, orders.load_baskets())),
    )


@shop.get("/products/<int:product_id>/availability")
def availability(product_id: int) -> Response:
    """Pieces in stock, as JSON."""
    found = catalogue.find_product(product_id) or abort(404)
    return jsonify(product=found.name, stock=supplier.stock(current_app.config["SUPPLIER_URL"], product_id))


@shop.get("/orders")
def latest_orders() -> str:
    """The latest orders with their items."""
    return render_template("orders.html", orders=orders.load_latest_orders())


@shop.get("/orders/<int:order_id>/invoice")
def invoice(order_id: int) -> str:
    """The invoice of one order."""
    order = orders.find_order(order_id) or abort(404)
    average = prices.average_piece_price(order.total_cents, order.pieces)
    return render_template("invoice.html", order=order, average=average)


@shop.get("/health")
def health() -> Response:
    """Whether the shop answers."""
    return jsonify(status="ok")
