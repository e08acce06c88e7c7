"""A small shop: products, orders, prices and a supplier. Nothing in it knows about profiling."""
