"""The routes of this process, as ended requests have shown them: for those that do not know theirs yet."""

from __future__ import annotations

MAX_ROUTES = 1_000
MAX_SEGMENTS = 16
PARAMETER = "{}"
_ANY = "/"
"""Stands for a parameter below a node: no segment of a path holds a slash."""


class _Node:
    __slots__ = ("below", "rest", "route")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.route = ""
        """Of a path that ends here."""
        self.rest = ""
        """Of a path that goes on, wherever to."""


class LearnedRoutes:
    """Tells the route of a path, for each method by itself.

    Any thread: there is no lock, and what every step leaves is a valid tree. Routes have anonymous
    parameters: `/orders/{}`. There are at most `MAX_ROUTES` of `MAX_SEGMENTS`, and one more for each thread
    that learns at the same moment. The first ones stay.
    """

    def __init__(self) -> None:
        self._tops: dict[str, _Node] = {}
        self._learned: set[tuple[str, str, bool]] = set()

    def __len__(self) -> int:
        return len(self._learned)

    def learn(self, method: str, route: str, path: str) -> None:
        """The application says that `route` has served `method` of `path`.

        It is learned if it explains the path segment by segment. So these are not: regular expressions,
        parameters that are only a part of a segment, routes below a prefix that they do not name. A last
        parameter explains several segments too, as `{path:path}` and what stands for a mount do.
        """
        if len(self._learned) >= MAX_ROUTES or not path.startswith("/"):
            return
        segments = path[1:].split("/")
        names = [_ANY if name == PARAMETER else name for name in route[1:].split("/")]
        if len(names) > MAX_SEGMENTS or not _explains(names, segments):
            return
        if _ANY not in names and not self.find(method, path):
            return  # its path says as much, unless another route's parameter takes that
        goes_on = len(segments) > len(names)
        node = self._tops.setdefault(method, _Node())
        for name in names[:-1] if goes_on else names:
            node = node.below.setdefault(name, _Node())
        if goes_on:
            node.rest = route
        else:
            node.route = route
        self._learned.add((method, route, goes_on))

    def find(self, method: str, path: str) -> str:
        """The route of `path`, "" if none. From the left, a literal segment wins over a parameter."""
        top = self._tops.get(method)
        if top is None or not path.startswith("/"):
            return ""
        return _find(top, path[1:].split("/", MAX_SEGMENTS), 0)


def _explains(names: list[str], segments: list[str]) -> bool:
    if len(segments) > len(names):
        # A slash at the end may be that of a redirect. A route of parameters alone would explain everything.
        if names[-1] != _ANY or not segments[-1] or set(names) <= {_ANY, ""}:
            return False
    elif len(segments) < len(names):
        return False
    return all(
        segment != "" if name == _ANY else segment == name
        for name, segment in zip(names, segments, strict=False)
    )


def _find(node: _Node, segments: list[str], position: int) -> str:
    if position == len(segments):
        return node.route
    segment = segments[position]
    for name in (segment, _ANY) if segment else (segment,):
        below = node.below.get(name)
        route = "" if below is None else _find(below, segments, position + 1)
        if route:
            return route
    return node.rest if segment else ""
