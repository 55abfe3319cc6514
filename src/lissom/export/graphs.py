"""Walks through ONNX graphs: those inside If, Loop and Scan are walked wherever the outer one is."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs that a node holds in its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph and every graph inside it, the outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(model: Any) -> Iterator[Any]:
    """Every node of a model: of its graph, of the graphs inside it, and of its functions."""
    for graph in all_graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for inner in subgraphs(node):
                for graph in all_graphs(inner):
                    yield from graph.node


def reads_of(node: Any) -> set[str]:
    """Tensors that a node reads, those that the graphs inside it take from outside too."""
    found = {name for name in node.input if name}
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {name for inner in graph.node for name in inner.output}
        taken = {name for inner in graph.node for name in reads_of(inner)}
        found |= (taken | {value.name for value in graph.output}) - own
    return found


def sort_nodes(graph: Any) -> None:
    """Put every node behind those that it reads from; nodes that stand well keep their order.

    ONNX Runtime's tools leave graphs in which a branch reads a tensor that is made further down.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in reads_of(node) if name in makers} for node in graph.node]
    if all(max(needed, default=-1) < place for place, needed in enumerate(needs)):
        return
    readers: dict[int, list[int]] = {}
    for place, needed in enumerate(needs):
        for maker in needed:
            readers.setdefault(maker, []).append(place)
    waiting = [len(needed) for needed in needs]
    ready = [place for place, number in enumerate(waiting) if not number]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers.get(place, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) == len(graph.node):  # else it holds a cycle, which the checker tells of
        nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[place] for place in order)


def default_opset(model: Any) -> int:
    """Version of the operator set of ONNX itself that a model uses; 0 where it names none."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


RANDOM = (
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Bernoulli", "Multinomial"),
)
"""Operators that draw random numbers."""


def random_nodes(model: Any) -> list[str]:
    """Names of the nodes that draw random numbers."""
    return [node.name or node.output[0] for node in model.graph.node if node.op_type in RANDOM]
