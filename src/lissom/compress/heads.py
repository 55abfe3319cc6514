"""Attention heads: which layers make them, and how whole heads are removed.

The heads of an attention with queries Q, keys K and values V are found in the autograd graph of one call: the
operation that multiplies them has saved its query, of shape [batch, heads, length, head_dim]. The layers
behind its three inputs make Q, K and V, one layer each or one for all three; the layer that first reads its
result mixes the heads. Removing a head removes its rows of the former and its columns of the latter, and
corrects the numbers that the modules keep. That the layout was read right is proven in `proof`, not assumed:
the model without its last heads must compute what the whole one does when their columns are zero.
Michel, Levy, Neubig: Are Sixteen Heads Really Better than One?, arXiv 1905.10650.

Left out, and kept whole: keys and values that several queries share, attention without torch's fused
operation, torch's own nn.MultiheadAttention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissom.compress.tracing import (
    Graph,
    first_layers_behind,
    is_turned,
    layer_of,
    stops_behind,
    width_of,
)

_NUMBERS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "num_key_value_heads", "heads")
_WIDTHS = ("all_head_size", "split_size", "embed_dim", "inner_dim")


@dataclass(frozen=True)
class Attention:
    """The layers of one attention.

    Attributes:
        sources: Layers that make queries, keys and values; one where they are made together.
        mixer: The layer that reads all heads.
        num_heads: Heads.
        head_dim: Channels of a head.
        holders: Modules that may keep the number or the width of the heads as an attribute.
    """

    sources: tuple[nn.Module, ...]
    mixer: nn.Module
    num_heads: int
    head_dim: int
    holders: tuple[nn.Module, ...]

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Sources and mixer."""
        return (*self.sources, self.mixer)

    def places(self) -> Iterator[tuple[nn.Module, bool, Tensor]]:
        """Each layer, whether it gives the heads, and its channels for each head: [heads, channels]."""
        heads = torch.arange(self.num_heads * self.head_dim).reshape(self.num_heads, -1)
        for layer in self.sources:
            blocks = width_of(layer) // heads.numel()
            yield layer, True, torch.cat([heads + block * heads.numel() for block in range(blocks)], dim=1)
        yield self.mixer, False, heads

    def rows(
        self, layer: nn.Module, gives: bool, index: Tensor, read: Callable[[Tensor], Tensor | None]
    ) -> Tensor | None:
        """All weights of each head in one layer, shape [heads, weights]."""
        weight: Any = layer.weight
        found = read(weight)
        if found is None:
            return None
        by_channel = found if gives != is_turned(layer) else found.t()
        return by_channel[index.flatten()].reshape(len(index), -1)

    def keep(self, heads: Sequence[int]) -> None:
        """Remove all heads but these."""
        for layer, gives, index in self.places():
            channels = torch.cat([index[head] for head in heads]).sort().values
            _cut(layer, channels, gives=gives)
        before, after = self.num_heads, len(heads)
        for holder in self.holders:
            _correct(holder, _NUMBERS, before, after)
            _correct(holder, _WIDTHS, before * self.head_dim, after * self.head_dim)


def attentions_of(model: nn.Module, graph: Graph) -> list[Attention]:
    """Every attention that looks as if its heads could be removed, in the order of the model.

    Args:
        model: In evaluation mode.
        graph: What one call of it shows.
    """
    found = [
        attention
        for node in graph.nodes
        if node.name().startswith("ScaledDotProduct")
        and (attention := _attention(model, graph, node)) is not None
    ]
    order = {module: place for place, module in enumerate(model.modules())}
    found.sort(key=lambda attention: order[attention.sources[0]])
    seen = [id(layer) for attention in found for layer in attention.layers]
    shared = {id(module) for module in graph.shared}
    return [
        attention
        for attention in found
        if all(seen.count(id(layer)) == 1 and id(layer) not in shared for layer in attention.layers)
    ]


def _attention(model: nn.Module, graph: Graph, node: Any) -> Attention | None:
    query, key = getattr(node, "_saved_query", None), getattr(node, "_saved_key", None)
    if query is None or key is None or query.shape[1] != key.shape[1] or query.shape[1] < 2:
        return None
    num_heads, head_dim = int(query.shape[1]), int(query.shape[-1])
    sources: dict[nn.Module, None] = {}
    for child, _ in node.next_functions[:3]:
        behind = first_layers_behind([child], graph.owners) if child is not None else []
        if len(behind) != 1:
            return None
        sources[behind[0]] = None
    width = num_heads * head_dim
    blocks = 3 // len(sources)
    mixers = _readers(graph, node)
    if len(mixers) != 1 or any(width_of(layer) != blocks * width for layer in sources):
        return None
    layers = (*sources, mixers[0])
    return Attention(tuple(sources), mixers[0], num_heads, head_dim, _holders(model, layers))


def _readers(graph: Graph, product: Any) -> list[nn.Module]:
    """The layers that read nothing but the result of an operation."""
    found = []
    for node in graph.nodes:
        layer = layer_of(node, graph.owners)
        if layer is None:
            continue
        before = stops_behind(
            [child for child, _ in node.next_functions if child is not None],
            lambda other: other is product or layer_of(other, graph.owners) is not None,
        )
        if before == [product]:
            found.append(layer)
    return found


def _holders(model: nn.Module, layers: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """The innermost modules that hold the sources, and that hold all of the layers."""
    found: dict[nn.Module, None] = {}
    for group in (layers[:-1], layers):
        inside = [module for module in model.modules() if set(group) <= set(module.modules()) - {module}]
        if inside:
            found[min(inside, key=lambda module: len(list(module.modules())))] = None
    return tuple(found)


def twin(attention: Attention, model: nn.Module, names: Mapping[nn.Module, str]) -> Attention:
    """The same attention in a copy of the model."""
    sources, holders = (
        tuple(model.get_submodule(names[module]) for module in modules)
        for modules in (attention.sources, attention.holders)
    )
    mixer = model.get_submodule(names[attention.mixer])
    return Attention(sources, mixer, attention.num_heads, attention.head_dim, holders)


def _cut(layer: Any, channels: Tensor, *, gives: bool) -> None:
    """Keep these output channels of a layer, or these inputs."""
    axis = int(gives == is_turned(layer))
    layer.weight = _kept(layer.weight, channels, axis)
    if gives and layer.bias is not None:
        layer.bias = _kept(layer.bias, channels, 0)
    name = ("nf" if gives else "nx") if is_turned(layer) else ("out_features" if gives else "in_features")
    if hasattr(layer, name):
        setattr(layer, name, len(channels))


def _kept(parameter: nn.Parameter, channels: Tensor, axis: int) -> nn.Parameter:
    chosen = parameter.detach().index_select(axis, channels.to(parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)


def _correct(holder: nn.Module, names: Sequence[str], before: int, after: int) -> None:
    for name in names:
        if vars(holder).get(name) == before:
            setattr(holder, name, after)
