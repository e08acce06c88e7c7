"""Which products are bought together."""

from collections import defaultdict

from shop.timing import measured


def also_bought(product_id: int, baskets: list[list[int]], *, limit: int = 6) -> list[int]:
    """Ids of the products that customers bought with this one, the closest first.

    `baskets` are the product ids of every order.
    """
    own = [basket for basket in baskets if product_id in basket]
    with measured("score_baskets"):
        scores = score_baskets(own, baskets)
    scores.pop(product_id, None)
    return sorted(scores, key=lambda other: (-scores[other], other))[:limit]


def score_baskets(own: list[list[int]], baskets: list[list[int]]) -> dict[int, int]:
    """How often each product shares a basket with the products of our own baskets.

    Compares every product of every own basket with every product of every order, on every request.
    """
    scores: dict[int, int] = defaultdict(int)
    for basket in own:
        for wanted in basket:
            for other in baskets:
                shared = False
                for candidate in other:
                    if candidate == wanted:
                        shared = True
                if shared:
                    for candidate in other:
                        scores[candidate] += 1
    return scores
