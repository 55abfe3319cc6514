"""What one call of a model shows: its autograd graph, read from the outputs to the inputs.

Layers are the modules that can lose channels: convolutions, linear layers, and the `Conv1D` of
transformers' GPT-2, which is a linear layer whose weight is turned.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_TURNS = ("TBackward0", "TransposeBackward0", "PermuteBackward0")
_LIBRARIES = ("site-packages", str(Path(__file__).parents[1]), "<frozen")


class Graph(NamedTuple):
    """What one call of the model shows.

    Attributes:
        shapes: Of the outputs.
        nodes: Every operation.
        owners: The layer that owns a weight, by the weight's id.
        shared: Modules whose weight another module or operation uses too.
    """

    shapes: list[tuple[int, ...]]
    nodes: set[Any]
    owners: Mapping[int, nn.Module]
    shared: list[nn.Module]


def is_layer(module: nn.Module) -> bool:
    """True for what can lose channels: a convolution, a linear layer, or a Conv1D of transformers."""
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or is_turned(module)


def is_turned(module: nn.Module) -> bool:
    """True for the Conv1D of transformers: a linear layer with a weight of shape [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def width_of(module: nn.Module) -> int:
    """Output channels of a layer."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    weight: Any = module.weight
    return int(weight.shape[1 if is_turned(module) else 0])


def widths(model: nn.Module) -> dict[str, int]:
    """Channels that every layer gives, and units of one direction of every recurrent layer, by name."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if is_layer(module):
            found[name] = width_of(module)
        elif isinstance(module, nn.Embedding):
            found[name] = module.embedding_dim
        elif isinstance(module, nn.RNNBase):
            found[name] = module.hidden_size
    return found


def read_graph(model: nn.Module, example: list[Tensor]) -> Graph:
    """Call the model and read its autograd graph; a model that computes without gradients has none."""
    layers = [module for module in model.modules() if is_layer(module)]
    with all_require_grad(model), torch.enable_grad():
        outputs = tensors_in(model(*example))
    owners = {id(module.weight): module for module in layers}
    ends = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    nodes = _nodes_behind(ends)
    return Graph(
        shapes=[tuple(tensor.shape) for tensor in outputs],
        nodes=nodes,
        owners=owners,
        shared=_shared(model, nodes),
    )


@contextmanager
def all_require_grad(model: nn.Module) -> Iterator[None]:
    """Let every parameter take part in the graph, frozen ones too."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Let models of transformers keep no keys and values, which the graph would show as a concatenation."""
    configs: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    cached = [config for config in configs if getattr(config, "use_cache", False) is True]
    for config in cached:
        config.use_cache = False
    try:
        yield
    finally:
        for config in cached:
            config.use_cache = True


def tensors_in(outputs: Any) -> list[Tensor]:
    """The tensors that a model gives, in order, whatever they are wrapped in."""
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def children(node: Any) -> list[Any]:
    """The operations whose results an operation takes."""
    return [child for child, _ in node.next_functions if child is not None]


def first_layers_behind(ends: Sequence[Any], owners: Mapping[int, nn.Module]) -> list[nn.Module]:
    """The first layer on every path from these nodes of the autograd graph to the inputs."""
    found: list[nn.Module] = []
    for node in stops_behind(ends, lambda node: layer_of(node, owners) is not None):
        layer = layer_of(node, owners)
        assert layer is not None
        found.append(layer)
    return found


def stops_behind(ends: Sequence[Any], stops: Callable[[Any], bool]) -> list[Any]:
    """The first nodes that `stops` accepts, on every path from these nodes to the inputs."""
    waiting = list(ends)
    seen: set[Any] = set()
    found: list[Any] = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if stops(node):
            found.append(node)
        else:
            waiting += children(node)
    return found


def layer_of(node: Any, owners: Mapping[int, nn.Module]) -> nn.Module | None:
    """The layer whose weight an operation reads; to turn a weight is no operation of a layer."""
    if node.name() in _TURNS:
        return None
    return next((owners[weight] for weight in _weights(node) if weight in owners), None)


def fault(exc: Exception) -> str:
    """What was raised, and the line of the user's own code that it came from."""
    problem = f"{type(exc).__name__}: {(str(exc) or 'no message').splitlines()[0]}"
    frames = [
        frame
        for frame in traceback.extract_tb(exc.__traceback__)
        if not any(part in frame.filename for part in _LIBRARIES)
    ]
    if not frames:
        return problem
    last = frames[-1]
    return f"{problem} (at {Path(last.filename).name}:{last.lineno}: {last.line})"


def _nodes_behind(ends: Sequence[Any]) -> set[Any]:
    waiting, seen = list(ends), set(ends)
    while waiting:
        new = [child for child in children(waiting.pop()) if child not in seen]
        seen.update(new)
        waiting += new
    return seen


def _weights(node: Any) -> list[int]:
    """Ids of the parameters that an operation reads; a linear one turns its weight first."""
    leaves = children(node)
    for child in list(leaves):
        if child.name() in _TURNS:
            leaves += children(child)
    return [id(leaf.variable) for leaf in leaves if hasattr(leaf, "variable")]


def _shared(model: nn.Module, nodes: set[Any]) -> list[nn.Module]:
    """Modules whose weight is another's too, and embeddings that are used as a matrix."""
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(module)
    matrices = {
        weight
        for node in nodes
        if not node.name().startswith("EmbeddingBackward")
        for weight in _weights(node)
    }
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [
        *(module for modules in holders.values() if len(modules) > 1 for module in modules),
        *(module for module in embeddings if id(module.weight) in matrices),
    ]
