"""Structured width pruning: whole channels are removed, together with everything that depends on them.

Removing an output channel of one layer removes the same channel of every layer that is added to it or
reads it. torch-pruning finds these groups (Fang et al., DepGraph, arXiv 2301.12900); a channel's
importance is the mean over its group of the L1 or L2 norm of its weights, and the least important share
goes. What remains is a smaller dense model that any engine runs faster; its structure is stored as data,
not pickled.

Kept at their widths, with all that is added to them: the last layers; the queries, keys and values of an
attention, whose channels belong to heads; embeddings that are a matrix of scores as well; and recurrent
layers and torch's own attention, which nothing that they read or give may leave. Removing whole heads, or
units of a recurrent layer, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction
from lissom.errors import ModelError, near
from lissom.logs import quiet_libraries
from lissom.recipe import PruneConfig

if TYPE_CHECKING:
    from torch import Tensor

_PRUNABLE = (nn.Conv2d, nn.Conv1d, nn.Linear)
_WHOLE = (nn.RNN, nn.LSTM, nn.GRU, nn.MultiheadAttention)
_PRODUCTS = ("ScaledDotProduct", "BmmBackward")  # of activations with activations
_TURNS = ("TBackward0", "TransposeBackward0", "PermuteBackward0")


class _Traced(NamedTuple):
    """What one call of the model shows.

    Attributes:
        shapes: Of the outputs.
        last: Layers whose width shows in an output, such as one logit for each class.
        multiplied: Layers whose outputs are multiplied with each other, as those of an attention are.
        shared: Embeddings whose weight is used as a matrix too.
    """

    shapes: list[tuple[int, ...]]
    last: list[nn.Module]
    multiplied: list[nn.Module]
    shared: list[nn.Module]


def rank_channels(model: nn.Module, whole: nn.Module, config: PruneConfig, samples: Samples) -> Reduction:
    """The channels of a model, ranked."""
    return _Channels(config, samples)


class _Channels(NamedTuple):
    config: PruneConfig
    samples: Samples

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        config = self.config.model_copy(update={"ratio": share})
        return {"channels": remove_channels(model, config, self.samples.example)}


def group_penalty(model: nn.Module, config: PruneConfig, samples: Samples) -> Callable[[], Tensor]:
    """What `group_norm` adds to the loss."""
    raise NotImplementedError


def remove_channels(model: nn.Module, config: PruneConfig, example: list[Tensor]) -> dict[str, list[int]]:
    """Prune `model` in place; gives `[before, after]` output channels of every layer that changed.

    Args:
        model: Model in evaluation mode.
        config: Ratio, importance, ranking and exclusions.
        example: Positional inputs for tracing, each of shape [batch, ...].

    Raises:
        ModelError: an excluded name is unknown, the model cannot be traced, or nothing could be removed.
    """
    before = _widths(model)
    excluded = _excluded(model, config)
    try:
        traced = _trace(model, example)
        kept = [*excluded, *traced.last, *traced.multiplied, *traced.shared, *_whole(model).values()]
        with quiet_libraries(), torch.enable_grad(), _seen_as_one(_whole(model).values()):
            _pruner(model, config, example, kept).step()
    except Exception as exc:  # the user's forward, or torch-pruning on an unusual layer, may raise anything
        problem = (str(exc) or "no message").splitlines()[0]
        raise ModelError(
            f"the model cannot be traced for pruning: {type(exc).__name__}: {problem}{_never(model)}",
            hint="prune.exclude takes names of modules; the forward must run on plain tensors",
        ) from exc
    after = _widths(model)
    changed = {name: [before[name], width] for name, width in after.items() if width != before[name]}
    if config.ratio > 0 and not changed:
        raise ModelError(
            f"nothing was pruned: no layer can spare {config.round_to} channels at a ratio of {config.ratio}"
            f"{_never(model)}",
            hint="raise ratio, lower round_to, or exclude fewer layers",
        )
    _check_runs(model, example, traced.shapes, changed)
    return changed


def _check_runs(
    model: nn.Module, example: list[Tensor], wanted: list[tuple[int, ...]], changed: Mapping[str, list[int]]
) -> None:
    """The pruned model must take the same samples and give outputs of the same shapes."""
    try:
        with torch.inference_mode():
            found = [tuple(tensor.shape) for tensor in _tensors(model(*example))]
    except Exception as exc:  # the user's forward may raise anything; what it says is what matters
        problem = f"{type(exc).__name__}: {(str(exc) or 'no message').splitlines()[0]}"
    else:
        if found == wanted:
            return
        problem = f"outputs of shape {found}, which were {wanted}"
    raise ModelError(
        f"the model does not run with fewer channels ({', '.join(list(changed)[:5])}): {problem}",
        hint="prune.exclude the layers whose outputs the forward reshapes or indexes by a fixed size",
    )


def _pruner(model: nn.Module, config: PruneConfig, example: list[Tensor], kept: list[nn.Module]) -> Any:
    import torch_pruning

    norm = {"l1": 1, "l2": 2}[config.importance]
    return torch_pruning.pruner.BasePruner(
        model,
        tuple(example),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=norm),
        pruning_ratio=min(config.ratio, _highest_ratio(model, config, kept)),
        global_pruning=config.ranking == "global",
        ignored_layers=kept,
        round_to=config.round_to,
        # torch-pruning writes into its own default dictionaries; fresh ones keep runs apart.
        num_heads={},
        customized_pruners=_whole_pruners(model),
        # Its own call would try other arguments when the first call fails, and hide what failed.
        forward_fn=lambda called, inputs: called(*inputs),
        out_channel_groups={},
        in_channel_groups={},
        pruning_ratio_dict=_ratios(model, config, kept),
        max_pruning_ratio=_highest_ratio(model, config, kept),
    )


def _ratios(model: nn.Module, config: PruneConfig, kept: list[nn.Module]) -> dict[nn.Module, float]:
    """Ratio of each layer, held so that `round_to` channels remain; ranked globally, one ratio serves all."""
    if config.ranking == "global":
        return {}
    return {
        module: min(config.ratio, max(0.0, 1 - (config.round_to + 0.01) / module.weight.shape[0]))
        for module in model.modules()
        if isinstance(module, _PRUNABLE) and module not in kept
    }


def _highest_ratio(model: nn.Module, config: PruneConfig, kept: list[nn.Module]) -> float:
    """Ranked globally, no layer may lose so much that its narrowest peer would keep less than `round_to`."""
    widths = [
        module.weight.shape[0]
        for module in model.modules()
        if isinstance(module, _PRUNABLE) and module not in kept and module.weight.shape[0] > config.round_to
    ]
    if config.ranking == "local" or not widths:
        return 1.0
    return 1 - (config.round_to + 0.01) / min(widths)


def _excluded(model: nn.Module, config: PruneConfig) -> list[nn.Module]:
    modules = dict(model.named_modules())
    for name in config.exclude:
        if name not in modules:
            raise ModelError(
                f"exclude names {name!r}, which is no module of the model", hint=near(name, modules)
            )
    return [modules[name] for name in config.exclude]


def _whole(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that are kept as they are, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _WHOLE)}


def _never(model: nn.Module) -> str:
    """The end of a message: which layers are never pruned."""
    kinds = [f"{name or 'the model'} ({type(module).__name__})" for name, module in _whole(model).items()]
    return f"; never pruned, nor what they read: {', '.join(kinds)}" if kinds else ""


def _whole_pruners(model: nn.Module) -> dict[type[nn.Module], Any]:
    """For torch-pruning, a way to remove channels of what is kept; it is asked, and never used."""
    import torch_pruning

    class Whole(torch_pruning.BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            raise AssertionError(f"{type(layer).__name__} is kept")

        # One function for both: a group that reaches the input is refused like one that reaches the output.
        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return int(getattr(layer, "hidden_size", 0) or getattr(layer, "embed_dim", 0))

        get_in_channels = get_out_channels

    return {type(module): Whole() for module in _whole(model).values()}


class _OneStep(torch.autograd.Function):
    """Several tensors as if one operation had made them from the input."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, given: Tensor, *made: Tensor) -> tuple[Tensor, ...]:
        """The tensors as they are; `anchor` gives them a place in the graph when the input has none."""
        return tuple(tensor.clone() for tensor in made)


@contextmanager
def _seen_as_one(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hide the operations inside modules, of which torch-pruning would make channels that are none."""

    def hide(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
        made: list[Tensor] = []
        _mapped(outputs, lambda tensor: made.append(tensor.detach()))
        join: Callable[..., tuple[Tensor, ...]] = _OneStep.apply
        hidden = iter(join(torch.zeros((), requires_grad=True), inputs[0], *made))
        return _mapped(outputs, lambda _: next(hidden))

    handles = [module.register_forward_hook(hide) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mapped(found: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(found, tuple):
        return tuple(_mapped(item, change) for item in found)
    return change(found) if isinstance(found, torch.Tensor) else found


def _trace(model: nn.Module, example: list[Tensor]) -> _Traced:
    """Call the model and read its autograd graph.

    A model that computes without gradients has no graph; then its last layer is the one defined last.
    """
    layers = [module for module in model.modules() if isinstance(module, _PRUNABLE)]
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            outputs = _tensors(model(*example))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    owners = {id(module.weight): module for module in layers}
    ends = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    nodes = _nodes_behind(ends)
    products = [node for node in nodes if node.name().startswith(_PRODUCTS)]
    matrices = {
        weight
        for node in nodes
        if not node.name().startswith("EmbeddingBackward")
        for weight in _weights(node)
    }
    return _Traced(
        shapes=[tuple(tensor.shape) for tensor in outputs],
        last=_first_layers_behind(ends, owners) or list(layers[-1:]),
        multiplied=_first_layers_behind([child for node in products for child in _children(node)], owners),
        shared=[module for module in embeddings if id(module.weight) in matrices],
    )


def _tensors(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _children(node: Any) -> list[Any]:
    return [child for child, _ in node.next_functions if child is not None]


def _nodes_behind(ends: Sequence[Any]) -> set[Any]:
    waiting, seen = list(ends), set(ends)
    while waiting:
        new = [child for child in _children(waiting.pop()) if child not in seen]
        seen.update(new)
        waiting += new
    return seen


def _first_layers_behind(ends: Sequence[Any], owners: Mapping[int, nn.Module]) -> list[nn.Module]:
    """The first layer on every path from these nodes of the autograd graph to the inputs."""
    waiting = list(ends)
    seen: set[Any] = set()
    found: list[nn.Module] = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        layer = next((owners[weight] for weight in _weights(node) if weight in owners), None)
        if layer is not None:
            found.append(layer)
        else:
            waiting += _children(node)
    return found


def _weights(node: Any) -> list[int]:
    """Ids of the parameters that an operation reads; a linear one turns its weight first."""
    leaves = _children(node)
    for child in list(leaves):
        if child.name() in _TURNS:
            leaves += _children(child)
    return [id(leaf.variable) for leaf in leaves if hasattr(leaf, "variable")]


def _widths(model: nn.Module) -> dict[str, int]:
    return {
        name: int(module.weight.shape[0])
        for name, module in model.named_modules()
        if isinstance(module, _PRUNABLE)
    }
