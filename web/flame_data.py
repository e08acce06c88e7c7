"""`flame.json`: a call tree as columns, ready for a browser.

    {"v": 1,
     "names": {"function": [text], "file": [text], "line": [n], "own": [0|1]},
     "nodes": {"parent": [node], "frame": [index into names], "self_us": [n], "samples": [n]}}

Nodes are in preorder, node 0 is the request, parents stand before their children. Totals, depths and
positions follow from that in one pass and are left to the browser. Texts are display-safe, as
`web.display.shown` makes them.
"""

from __future__ import annotations

import json

from otel_pyinstrument.call_tree import CallTree
from web.display import shown

FLAME_FORMAT = 1


def flame_json(tree: CallTree) -> bytes:
    """The columns of `tree` as compact UTF-8 JSON."""
    columns = {
        "v": FLAME_FORMAT,
        "names": {
            "function": [shown(frame.function) for frame in tree.frames],
            "file": [shown(frame.file) for frame in tree.frames],
            "line": [frame.line for frame in tree.frames],
            "own": [int(frame.own_code) for frame in tree.frames],
        },
        "nodes": {
            "parent": tree.parent,
            "frame": tree.frame,
            "self_us": tree.self_us,
            "samples": tree.samples,
        },
    }
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":")).encode()
