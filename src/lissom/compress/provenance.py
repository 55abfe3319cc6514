"""Provenance: which channel of which layer every number of one call comes from.

The model is called once under a dispatch mode that sees every operation. The outputs of a layer get a label
for each channel, a tensor of labels beside the tensor of numbers; what only moves numbers (permute, flip,
chunk, pixel shuffle, ...) is carried out on the labels too, so that whatever the forward does with its
channels is followed, not guessed. Where two labels meet in one number, as in a sum or a product, their
channels can only go together: that is a pair. Where numbers with labels go into what may mix them, or meet
what cannot become narrower, their channels are kept, with the reason. The idea is that of DepGraph (Fang et
al., arXiv 2301.12900) with element by element indices.

Parameters and buffers that stand in no layer, as the scale of a normalisation, have a label for every
element.

With `dead` the same call computes what the model gives without these labels: their numbers are zero where
they are made, and statistics over channels (means, norms, softmax) run over the others only; see
`statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from lissom.compress.label_tensors import broadcast, distinct, distinct_pairs, thin
from lissom.compress.recurrence import WHOLE
from lissom.compress.tracing import is_layer, is_turned

Key = tuple[str, str]
"""Name of a module, and of its parameter or buffer; an empty name stands for the outputs of a layer."""

OUTPUT = "they show in an output of the model"
FIXED = "they meet something that cannot become narrower"
CROSSED = "they meet the channels of another layer along another axis"
PRODUCT = "they are multiplied with each other, as in an attention"


class Weight(NamedTuple):
    """A matrix of a layer: the name of the layer, and what each axis stands for: out, in or nothing."""

    module: str
    axes: tuple[str, ...]


class Statistic(NamedTuple):
    """What a number is that was computed from several channels of one row, as by a group norm.

    Attributes:
        labels: In the shape of the numbers; one of the labels of each row stands for all of them.
        members: Labels of the channels that it was computed from.
        rows: The label that stands for each of them.
    """

    labels: Tensor
    members: Tensor
    rows: Tensor


@dataclass
class Ledger:
    """What a call shows.

    Attributes:
        labels: Of every source, float64, in the shape of the channels of a layer or of the parameter.
        size: Labels that there are; 0 stands for none.
        pairs: Labels that go together, each of shape [2, pairs].
        kept: Labels that stay, and why.
        reads: For each call of a layer, the labels of its input channels, shape [channels, places].
        blocks: Labels of the channels that a normalisation takes in blocks, and how many blocks.
        splits: Labels of the channels that a reshape cuts into rows, and how many rows.
        shared: Modules whose matrix is used in another way than by their own call, and how.
        calls: Names of the layers that were called.
    """

    labels: dict[Key, Tensor] = field(default_factory=dict)
    size: int = 1
    pairs: list[Tensor] = field(default_factory=list)
    kept: list[tuple[Tensor, str]] = field(default_factory=list)
    reads: dict[str, list[Tensor]] = field(default_factory=dict)
    blocks: list[tuple[Tensor, int]] = field(default_factory=list)
    splits: list[tuple[Tensor, int]] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)
    calls: dict[str, None] = field(default_factory=dict)

    def labels_of(self, key: Key, shape: Sequence[int]) -> Tensor:
        """The labels of a source, made when they are first asked for."""
        if key not in self.labels:
            number = int(torch.Size(shape).numel())
            found = torch.arange(self.size, self.size + number, dtype=torch.float64)
            self.labels[key] = found.reshape(tuple(shape))
            self.size += number
        return self.labels[key]


class ChannelTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows labels through a call of a model under `torch.inference_mode`.

    Args:
        model: The model.
        ledger: Where what is seen is written; labels that it has already are used again.
        dead: For every label, whether its channel is to count as removed; default: none is.
        dead_inputs: For a layer by name, which of its input channels count as removed.
        double: Carry out in float64 what the model casts to a narrower type.
    """

    def __init__(
        self,
        model: nn.Module,
        ledger: Ledger,
        *,
        dead: Tensor | None = None,
        dead_inputs: Mapping[str, Tensor] | None = None,
        double: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger, self.dead, self.double = ledger, dead, double
        self.dead_inputs = dead_inputs or {}
        self._labels: Any = WeakTensorKeyDictionary()
        self._statistics: Any = WeakTensorKeyDictionary()
        self._weights: Any = WeakTensorKeyDictionary()
        self._given: Any = WeakTensorKeyDictionary()
        self._loose: Any = WeakTensorKeyDictionary()
        self.modules = dict(model.named_modules())
        self.recurrent: dict[int, str] = {}
        self._own(model)

    def _own(self, model: nn.Module) -> None:
        whole = {
            inner for module in model.modules() if isinstance(module, WHOLE) for inner in module.modules()
        }
        for name, module in self.modules.items():
            if module in whole:
                continue
            if isinstance(module, nn.RNNBase):
                self.recurrent[id(module._flat_weights[0])] = name
                continue
            axes = matrix_axes(module)
            for leaf, tensor in (
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ):
                if axes and leaf == "weight":
                    self._weights[tensor] = Weight(name, axes)
                elif not (axes and leaf == "bias"):
                    self._loose[tensor] = (name, leaf)

    def watch(self, inputs: Iterable[Tensor]) -> None:
        """Remember that these tensors, and all that is computed from them, depend on the samples."""
        for tensor in inputs:
            self._given[tensor] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry out an operation on numbers and labels."""
        from lissom.compress.provenance_rules import apply_rule

        if self.double:
            args, kwargs = widen(args), {name: widen(value) for name, value in (kwargs or {}).items()}
        result = apply_rule(self, func, args, kwargs or {})
        if any(tensor in self._given for tensor in tensors_of((args, kwargs))):
            self.watch(tensors_of(result))
        return result

    def is_given(self, tensor: Tensor) -> bool:
        """True for what depends on the samples."""
        return tensor in self._given

    def is_loose(self, tensor: Tensor) -> bool:
        """True for a parameter or buffer that stands in no layer."""
        return tensor in self._loose

    def weight(self, tensor: Any) -> Weight | None:
        """The layer whose matrix this is, or was computed from."""
        found: Weight | None = self._weights.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def dead_weights(self, tensor: Any) -> Tensor | None:
        """Which elements of a layer's matrix count as removed; None where none does."""
        weight = self.weight(tensor)
        if weight is None or self.dead is None or self.modules[weight.module].__dict__.get("groups", 1) != 1:
            return None
        found = torch.zeros(tensor.shape, dtype=torch.bool)
        key = (weight.module, "")
        out = self.dead[self.ledger.labels[key].long()] if key in self.ledger.labels else None
        for kind, dead in (("out", out), ("in", self.dead_inputs.get(weight.module))):
            if dead is not None and kind in weight.axes:
                found |= dead.reshape([-1 if kind == axis else 1 for axis in weight.axes])
        return found

    def carry_weight(self, result: Tensor, weight: Weight) -> None:
        """Remember that a tensor is the matrix of a layer."""
        self._weights[result] = weight

    def labels(self, tensor: Any) -> Tensor | None:
        """Labels of a tensor, of its shape; None where it has none."""
        if not isinstance(tensor, Tensor):
            return None
        found: Tensor | None = self._labels.get(tensor)
        if found is None and (statistic := self.statistic(tensor)) is not None:
            return self._tie(tensor, statistic)
        if found is None and tensor in self._loose:
            found = self.ledger.labels_of(self._loose[tensor], tensor.shape)
        return found

    def statistic(self, tensor: Any) -> Statistic | None:
        """What rows of channels a tensor is a statistic of, as long as only they were computed with it."""
        found: Statistic | None = self._statistics.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def note_statistic(self, result: Tensor, statistic: Statistic) -> None:
        """Remember that a tensor is a statistic of rows of channels."""
        self._statistics[result] = statistic._replace(labels=statistic.labels.expand(result.shape))

    def tie(self, tensors: Iterable[Tensor]) -> None:
        """Let the channels of a row go together where a statistic of them is used for something else."""
        for tensor in tensors:
            if (statistic := self.statistic(tensor)) is not None:
                self._tie(tensor, statistic)

    def _tie(self, tensor: Tensor, statistic: Statistic) -> Tensor:
        """Labels of what was a statistic; see `tie`."""
        del self._statistics[tensor]
        self._labels[tensor] = labels = statistic.labels
        if self.dead is None:
            self.pair(statistic.members, statistic.rows)
        elif tensor.is_floating_point():
            small = thin(tensor)
            own = labels[tuple(slice(size) for size in small.shape)]
            small.masked_fill_(self.is_dead(own), 0.0)
        return labels

    def note(self, result: Tensor, labels: Tensor | None) -> Tensor:
        """Give labels to a result, and silence what is dead in it."""
        if labels is None:
            return result
        labels = labels.expand(result.shape)
        self._labels[result] = labels
        if self.dead is not None and result.is_floating_point():
            result.masked_fill_(self.is_dead(labels), 0.0)
        return result

    def note_moved(self, result: Tensor, labels: Tensor) -> None:
        """Give labels to numbers that were silenced before they were moved."""
        self._labels[result] = labels

    def is_dead(self, labels: Tensor) -> Tensor:
        """Which of these labels count as removed."""
        assert self.dead is not None
        thinned = thin(labels)
        return self.dead[thinned.long()].expand(labels.shape)

    def keep(self, labels: Tensor | None, reason: str) -> None:
        """Keep the channels of these labels."""
        if labels is not None and self.dead is None:
            found = distinct(thin(labels))
            if len(found := found[found > 0]):
                self.ledger.kept.append((found.long(), reason))

    def keep_module(self, name: str, reason: str) -> None:
        """Keep all channels of a layer, those that it reads too."""
        self.ledger.shared.setdefault(name, reason)

    def keep_owner(self, tensor: Tensor, reason: str) -> None:
        """Keep a module that computes with a matrix in a way that is not known."""
        if tensor in self._loose and tensor.dim() > 1:
            self.keep_module(self._loose[tensor][0], reason)

    def meet(self, one: Tensor, other: Tensor) -> Tensor:
        """Labels of what is computed from both, number by number; they go together from here on."""
        one, other = broadcast(thin(one), thin(other))
        if self.dead is None:
            self.pair(one.flatten(), other.flatten())
        return torch.where(one > 0, one, other)

    def pair(self, one: Tensor, other: Tensor) -> None:
        """Note which labels stand at the same places; a label beside none is kept."""
        both = (one > 0) & (other > 0) & (one != other)
        if both.any():
            self.ledger.pairs.append(distinct_pairs(one[both].long(), other[both].long()))
        lone = (one > 0) != (other > 0)
        if lone.any():
            self.keep(torch.maximum(one, other)[lone], FIXED)

    def merge(self, labels: Tensor, axes: Sequence[int]) -> Tensor:
        """One label for all that lie along these axes, which go together."""
        flat = thin(labels)
        found = flat.amax(dim=tuple(axes), keepdim=True)
        if self.dead is None:
            self.pair(flat.flatten(), found.expand(flat.shape).flatten())
        return found

    def read(self, name: str, labels: Tensor | None, axis: int) -> None:
        """Note what a layer reads along an axis."""
        if labels is None:
            return
        lines = thin(labels.movedim(axis, 0))
        lines = lines.reshape(len(lines), -1).expand(labels.shape[axis], -1)
        if bool((lines == lines[:, :1]).all()):
            lines = lines[:, :1]
        self.ledger.reads.setdefault(name, []).append(lines)

    def outputs_of(self, name: str, number: int, shape: Sequence[int], axis: int) -> Tensor:
        """Labels of what a layer gives."""
        self.ledger.calls[name] = None
        labels = self.ledger.labels_of((name, ""), (number,))
        view = [1] * len(shape)
        view[axis] = number
        return labels.reshape(view).expand(tuple(shape))


def trace_channels(
    model: nn.Module,
    inputs: Sequence[Tensor],
    ledger: Ledger,
    *,
    dead: Tensor | None = None,
    dead_inputs: Mapping[str, Tensor] | None = None,
    double: bool = False,
) -> list[Tensor]:
    """Call a model and write what becomes of its channels into a ledger; gives the tensors of its outputs."""
    tracer = ChannelTracer(model, ledger, dead=dead, dead_inputs=dead_inputs, double=double)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer, which shows nothing
    try:
        with torch.inference_mode():
            given = [tensor.clone() for tensor in inputs]
            tracer.watch(given)
            with _reading_norms(tracer), tracer:
                outputs = list(tensors_of(model(*given)))
            for tensor in outputs:
                tracer.keep(tracer.labels(tensor), OUTPUT)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return outputs


@contextmanager
def _reading_norms(tracer: ChannelTracer) -> Iterator[None]:
    """Note what norms without a scale read: their sizes are written in the module, and no weight names it."""
    hooks = [
        module.register_forward_pre_hook(partial(_read_norm, tracer, name))
        for name, module in tracer.modules.items()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm)
        and not module.elementwise_affine
        and len(module.normalized_shape) == 1
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read_norm(tracer: ChannelTracer, name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
    with _disable_current_modes():
        if given:
            tracer.read(name, tracer.labels(given[0]), -1)


def matrix_axes(module: Any) -> tuple[str, ...]:
    """What the axes of a layer's weight stand for; nothing for what is no layer."""
    if is_turned(module):
        return ("in", "out")
    if isinstance(module, nn.Embedding):
        return ("", "out")
    if isinstance(module, nn.modules.conv._ConvNd):
        pair = ("in", "out") if module.transposed else ("out", "in")
        return (*pair, *[""] * (module.weight.dim() - 2))
    return ("out", "in") if is_layer(module) else ()


def tensors_of(found: Any) -> Iterable[Tensor]:
    """All tensors in nested arguments or outputs."""
    leaves = torch.utils._pytree.tree_leaves(found)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def widen(value: Any) -> Any:
    """An argument of an operation, with float64 for every narrower type of number."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value.is_floating_point else value
    if isinstance(value, tuple | list):
        return type(value)(widen(item) for item in value)
    return value
