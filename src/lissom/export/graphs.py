"""Walks through ONNX graphs: those inside If, Loop and Scan are walked wherever the outer one is."""

from __future__ import annotations

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


def default_opset(model: Any) -> int:
    """Version of the operator set of ONNX itself that a model uses; 0 where it names none."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
