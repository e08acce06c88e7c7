"""What call trees cost: `python benchmarks/call_tree.py [--quick]`.

`add` runs on the user's thread, so it is compared with the least that any profiler does: appending the
stack to a list. The rest runs in the exporter's thread or on the server; there the unit is a node.
"""

from __future__ import annotations

import argparse
import json
import random
import zlib
from collections.abc import Callable, Sequence
from time import perf_counter

from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame, decode, encode, merge, prune


def sampled_stacks(depth: int, count: int, *, functions: int = 8) -> list[list[str]]:
    """Stacks as a profiler hands them over: fresh strings, most differ near the leaf."""
    rng = random.Random(depth)
    calls = [rng.randrange(functions) for _ in range(depth)]
    stacks: list[list[str]] = []
    for _ in range(count):
        kept = max(0, depth - round(rng.expovariate(1 / 4)))
        calls = calls[:kept] + [rng.randrange(functions) for _ in range(depth - kept)]
        stacks.append(
            [f"function_{i}_{call}\0/srv/shop/module_{i % 7}.py\0{i}" for i, call in enumerate(calls)]
        )
    return stacks


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        run()
        best = min(best, perf_counter() - start)
    return best


def add_costs(repeats: int) -> None:
    print("add, per sample      depth  list.append    add  ratio  with time order")
    for depth in (20, 60, 100):
        stacks = sampled_stacks(depth, 100) * 20

        def append(stacks: list[list[str]] = stacks) -> None:
            records: list[tuple[list[str], float]] = []
            for stack in stacks:
                records.append((stack, 0.01))

        def stream(stacks: list[list[str]] = stacks, *, time_order: bool = False) -> None:
            builder = CallTreeBuilder(time_order=time_order)
            for stack in stacks:
                builder.add(stack, 0.01)

        per_sample = 1e6 / len(stacks)
        plain = fastest(append, repeats) * per_sample
        ours = fastest(stream, repeats) * per_sample
        ordered = fastest(lambda stream=stream: stream(time_order=True), repeats) * per_sample
        print(f"{depth:26d}  {plain:8.2f} us  {ours:5.2f}  x{ours / plain:4.0f}  {ordered:8.2f} us")


def built(nodes: int) -> CallTree:
    builder = CallTreeBuilder(max_nodes=nodes)
    for stack in sampled_stacks(60, nodes):
        builder.add(stack, 0.01)
        if builder.truncated:
            break
    return builder.build(lambda name: Frame(*name.split("\0")[:2], 1, "module_1" in name))


def transform_costs(sizes: Sequence[int], repeats: int) -> None:
    print("\nper tree, ms   nodes   json+zlib  encode  ratio  to 64 KiB  decode   prune   merge  bytes/node")
    for nodes in sizes:
        tree = built(nodes)
        arrays = [tree.parent, tree.frame, tree.self_us, tree.samples]
        payload = encode(tree, max_bytes=1 << 24).payload

        def cost(run: Callable[[], object]) -> float:
            return fastest(run, repeats) * 1e3

        least = cost(lambda arrays=arrays: zlib.compress(json.dumps(arrays).encode()))
        whole = cost(lambda tree=tree: encode(tree, max_bytes=1 << 24))
        budget = cost(lambda tree=tree: encode(tree))
        back = cost(lambda payload=payload: decode(payload))
        small = cost(lambda tree=tree: prune(tree, max_nodes=tree.node_count // 2))
        both = cost(lambda tree=tree: merge([tree, tree]))
        print(
            f"{tree.node_count:20d}  {least:10.1f}  {whole:6.1f}  x{whole / least:4.1f}  {budget:9.1f}"
            f"  {back:6.1f}  {small:6.1f}  {both:6.1f}  {len(payload) / tree.node_count:10.1f}"
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="the cost of call trees")
    parser.add_argument(
        "--quick", action="store_true", help="once and small: shows that it works, not what is"
    )
    quick = parser.parse_args().quick
    repeats = 1 if quick else 7
    add_costs(repeats)
    transform_costs((500, 5_000) if quick else (500, 5_000, 50_000), repeats)


if __name__ == "__main__":
    main()
