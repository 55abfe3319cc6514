"""What operations that move numbers do with labels: the same as with the numbers; see `provenance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lissom.compress.label_tensors import thin, varying
from lissom.compress.provenance import Weight, tensors_of

if TYPE_CHECKING:
    from lissom.compress.provenance import ChannelTracer

_RESHAPES = (
    "view",
    "reshape",
    "unflatten",
    "flatten",
    "_unsafe_view",
    "_reshape_alias",
    "view_as",
    "view_copy",
)
_TURNS = ("t", "transpose", "permute", "mT", "numpy_T", "T", "swapaxes", "swapdims")
_SAME_WEIGHT = ("clone", "contiguous", "alias", "detach", "to", "_to_copy", "lift_fresh")


def keep_all(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Keep what goes into an operation that is not known."""
    result = func(*args, **kwargs)
    name = func.overloadpacket.__name__
    for tensor in tensors_of((args, kwargs)):
        if not tracer.is_loose(tensor):
            tracer.keep(tracer.labels(tensor), f"they go into {name}, which may mix them")
        if (weight := tracer.weight(tensor)) is not None:
            tracer.keep_module(weight.module, f"its weight goes into {name}")
    return result


def move(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry out on the labels what moves the numbers."""
    name = func.overloadpacket.__name__
    if not args:
        return func(**kwargs)
    if not isinstance(args[0], Tensor):
        tracer.tie(tensors_of(args[0]))
    result = func(*args, **kwargs)
    if (weight := tracer.weight(args[0])) is not None:
        _move_weight(tracer, name, weight, args, kwargs, result)
        return result
    first = args[0]
    if (statistic := tracer.statistic(first)) is not None:
        for one, other in _each(result, _moved(func, name, statistic.labels, args[1:], kwargs, result)):
            tracer.note_statistic(one, statistic._replace(labels=other))
        return result
    if all(tracer.labels(tensor) is None for tensor in tensors_of(first)):
        return result
    if name in _RESHAPES and result.numel() != first.numel():  # a view as another type
        return keep_all(tracer, func, args, kwargs)
    labels: Any = (
        tracer.labels(first) if isinstance(first, Tensor) else [_or_none(tracer, item) for item in first]
    )
    moved = _moved(func, name, labels, args[1:], kwargs, result)
    for one, other in _each(result, moved):
        tracer.note_moved(one, other)
    if name in _RESHAPES and tracer.dead is None and isinstance(first, Tensor):
        _note_split(tracer, labels, moved)
    if name == "channel_shuffle" and tracer.dead is None:
        tracer.ledger.splits.append((thin(labels.movedim(1, 0)).flatten(1)[:, 0].long(), args[1]))
    return result


def _moved(func: Any, name: str, labels: Any, others: Any, kwargs: Any, result: Any) -> Any:
    """Labels where an operation puts them."""
    if name in _RESHAPES and isinstance(result, Tensor):
        return labels.reshape(result.shape)  # a view of the numbers need not be one of repeated labels
    return func(labels, *others, **kwargs)


def _each(result: Any, moved: Any) -> list[tuple[Tensor, Tensor]]:
    """Every tensor that an operation gives, with its labels."""
    return [(result, moved)] if isinstance(result, Tensor) else list(zip(result, moved, strict=True))


def _note_split(tracer: ChannelTracer, before: Tensor, after: Tensor) -> None:
    """Note that channels were cut into rows, of which each may have to lose as many."""
    axes, new = varying(before), sorted(varying(after))
    if len(axes) != 1 or len(new) != 2:
        return
    (axis,) = axes
    if after.shape[new[0]] * after.shape[new[1]] == before.shape[axis]:
        line = thin(before.movedim(axis, 0)).reshape(before.shape[axis], -1)[:, 0]
        tracer.ledger.splits.append((line.long(), after.shape[new[0]]))


def _or_none(tracer: ChannelTracer, tensor: Tensor) -> Tensor:
    found = tracer.labels(tensor)
    return torch.zeros((), dtype=torch.float64).expand(tensor.shape) if found is None else found


def _move_weight(
    tracer: ChannelTracer, name: str, weight: Weight, args: Any, kwargs: Any, result: Any
) -> None:
    """Follow the matrix of a layer while it is only turned."""
    if name in _SAME_WEIGHT:
        tracer.carry_weight(result, weight)
    elif name in _TURNS:
        sizes = torch.arange(1, len(weight.axes) + 1)
        places = torch.zeros(tuple(sizes.tolist()))
        turned = _turn(name, places, args, kwargs)
        axes = tuple(weight.axes[size - 1] for size in turned.shape)
        tracer.carry_weight(result, Weight(weight.module, axes))
    elif isinstance(result, Tensor) and result.shape == args[0].shape:
        tracer.carry_weight(result, weight)
    else:
        tracer.keep_module(weight.module, f"its weight goes into {name}")


def _turn(name: str, tensor: Tensor, args: Any, kwargs: Any) -> Tensor:
    turned: Tensor = getattr(torch.ops.aten, name)(tensor, *args[1:], **kwargs)
    return turned


def pad(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pad channels with what has no label; what is padded along another axis is of the same channel."""
    result = func(*args, **kwargs)
    if (labels := tracer.labels(args[0])) is None:
        return result
    axes = varying(labels)
    for axis in set(range(labels.dim())) - axes:
        labels = labels.narrow(axis, 0, min(1, labels.shape[axis]))
    sizes = [size if labels.dim() - 1 - index // 2 in axes else 0 for index, size in enumerate(args[1])]
    return tracer.note(result, torch.ops.aten.constant_pad_nd(labels, sizes, 0.0).expand(result.shape))


def take_patches(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Patches of places, one after the other; those beyond the border are of the same channel."""
    result = func(*args, **kwargs)
    if (labels := tracer.labels(args[0])) is None:
        return result
    patches = func(labels.contiguous(), *args[1:], **kwargs)
    inside = not varying(labels) & {labels.dim() - 1, labels.dim() - 2}
    return tracer.note(result, patches.amax(-1, keepdim=True) if inside else patches)


def repeat_same(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What keeps every number in its place."""
    result = func(*args, **kwargs)
    weight = tracer.weight(args[0])
    for one in tensors_of(result):
        if weight is not None and one.shape == args[0].shape:
            tracer.carry_weight(one, weight)
        elif one.shape == args[0].shape and (statistic := tracer.statistic(args[0])) is not None:
            tracer.note_statistic(one, statistic)
        elif one.shape == args[0].shape and (labels := tracer.labels(args[0])) is not None:
            tracer.note_moved(one, labels)
    return result


def fold(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Patches are added up where they overlap; channels stay where all that meet are of one channel."""
    result = func(*args, **kwargs)
    if (labels := tracer.labels(args[0])) is None:
        return result
    sums = [
        func(part.double().contiguous(), *args[1:], **kwargs)
        for part in (labels > 0, labels, labels.square())
    ]
    number = sums[0].clamp(min=1)
    mean = sums[1] / number
    if bool((sums[2] / number - mean.square() > 0.5).any()) or bool((mean != mean.round()).any()):
        return keep_all(tracer, func, args, kwargs)
    return tracer.note(result, mean)


def make_alike(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new tensor in the shape of another has as many channels as that."""
    result: Tensor = func(*args, **kwargs)
    labels = tracer.labels(args[0])
    return result if labels is None else tracer.note(result, labels)
