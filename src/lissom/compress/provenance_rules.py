"""What each operation of torch does with labels; see `provenance`.

Every operation belongs to a kind: it moves numbers, computes number by number, reduces, normalises, is a
layer, or is unknown. What is unknown and made of others is taken apart; of the rest the labelled channels
are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lissom.compress import statistics
from lissom.compress.label_tensors import broadcast, distinct_pairs, thin, varying
from lissom.compress.provenance import CROSSED, FIXED, Statistic, Weight, tensors_of
from lissom.compress.provenance_layers import attend, convolve, embed, linear, normalize, recur
from lissom.compress.provenance_moves import fold, keep_all, make_alike, move, pad, repeat_same, take_patches

if TYPE_CHECKING:
    from lissom.compress.provenance import ChannelTracer

Rule = Callable[["ChannelTracer", Any, tuple[Any, ...], dict[str, Any]], Any]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MOVES = _names(
    "view reshape _unsafe_view _reshape_alias permute transpose t numpy_T mT matrix_H T expand "
    "expand_as slice select narrow split split_with_sizes chunk tensor_split unsafe_split "
    "unsafe_split_with_sizes unsafe_chunk unbind squeeze unsqueeze clone contiguous alias detach flip "
    "roll movedim swapaxes swapdims flatten unflatten ravel repeat tile repeat_interleave pixel_shuffle "
    "pixel_unshuffle channel_shuffle index_select index gather take_along_dim diagonal unfold rot90 "
    "fliplr flipud cat concat concatenate stack view_as reshape_as reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d tril triu lift_fresh "
    "view_copy broadcast_to"
)
_KEEPS_PLACE = _names(
    "to _to_copy type_as dropout feature_dropout alpha_dropout native_dropout hardswish bernoulli"
)
_REDUCES = _names(
    "mean sum amax amin var std var_mean std_mean prod logsumexp norm linalg_vector_norm max min nansum "
    "all any"
)
_POOLS = _names(
    "max_pool avg_pool adaptive_avg_pool adaptive_max_pool _adaptive_avg_pool upsample_nearest "
    "_upsample_nearest_exact upsample_linear upsample_bilinear upsample_bicubic upsample_trilinear"
)
_SPATIAL = (
    *(f"{kind}{axes}d" for axes in (1, 2, 3) for kind in _POOLS),
    *_names("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"),
    *_names("_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
)
_PRODUCTS = _names("mm bmm addmm baddbmm scaled_dot_product_attention addbmm mv dot")


def apply_rule(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation, with its labels noted."""
    name = func.overloadpacket.__name__
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = compute_by_number
    if rule is None:
        if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            with tracer:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        rule = keep_all
    if rule not in (compute_by_number, move, repeat_same):
        tracer.tie(tensors_of((args, kwargs)))
    return rule(tracer, func, args, kwargs)


def compute_by_number(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Number by number: labels at the same place go together."""
    name = func.overloadpacket.__name__
    operands = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
    fresh = not (name.endswith("_") and not name.startswith("__"))
    statistic, operands = _met_by_number(tracer, operands)
    result = func(*args, **kwargs)
    if not isinstance(result, Tensor):
        return keep_all(tracer, func, args, kwargs) if not fresh else _keep_lists(tracer, func, args, result)
    if (weight := next((found for item in operands if (found := tracer.weight(item))), None)) is not None:
        _compute_weight(tracer, weight, operands, result)
        return result
    if statistic is not None:
        tracer.note_statistic(result, statistic)
        return result
    labels = join(tracer, operands, result.shape)
    if not fresh and labels is not None and args[0]._is_view() and tracer.labels(args[0]) is None:
        tracer.keep(labels, FIXED)  # written into a part of another tensor, which would have to be told
        return result
    return tracer.note(result, labels)


def _keep_lists(tracer: ChannelTracer, func: Any, args: Any, result: Any) -> Any:
    for tensor in tensors_of(args):
        tracer.keep(tracer.labels(tensor), f"they go into {func.overloadpacket.__name__}")
    return result


def _compute_weight(
    tracer: ChannelTracer, weight: Weight, operands: Sequence[Tensor], result: Tensor
) -> None:
    """A matrix that is computed before it is used, as by a weight standardisation."""
    if not any(item.shape == result.shape and tracer.weight(item) for item in operands):
        tracer.keep_module(weight.module, "its weight is computed in a way that is not known")
        return
    tracer.carry_weight(result, weight)
    for item in operands:
        labels = tracer.labels(item)
        if labels is None or not varying(labels):
            continue
        out = weight.axes.index("out")
        lead = _led(labels, result.dim())
        if varying(lead) == {out} and "in" in weight.axes:
            own = tracer.outputs_of(weight.module, result.shape[out], result.shape, out)
            tracer.meet(own.narrow(0, 0, result.shape[0]), lead)
        else:
            tracer.keep(labels, FIXED)
            tracer.keep_module(weight.module, "its weight is computed from other parameters")


def _passed_on(tracer: ChannelTracer, operands: Sequence[Tensor]) -> Statistic | None:
    """The statistic that operands are of, where none of them is anything else that depends on the samples."""
    found = [statistic for tensor in operands if (statistic := tracer.statistic(tensor)) is not None]
    others = [tensor for tensor in operands if tracer.statistic(tensor) is None]
    if not found or any(tracer.is_given(tensor) or tracer.labels(tensor) is not None for tensor in others):
        return None
    rows = [statistic.rows for statistic in found]
    return found[0] if all(torch.equal(row, rows[0]) for row in rows) else None


def _met_by_number(
    tracer: ChannelTracer, operands: Sequence[Tensor]
) -> tuple[Statistic | None, list[Tensor]]:
    """The statistic that the operands are of; else those but for statistics of the rows that they meet."""
    if all(tracer.statistic(tensor) is None for tensor in operands):
        return None, list(operands)
    if (passed := _passed_on(tracer, operands)) is not None:
        return passed, list(operands)
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in operands))  # type: ignore[no-untyped-call]
    met = [
        labels
        for tensor in operands
        if tracer.statistic(tensor) is None and (labels := tracer.labels(tensor)) is not None
    ]
    left = [
        tensor
        for tensor in operands
        if (statistic := tracer.statistic(tensor)) is None
        or not any(_meets_itself(tracer, statistic, labels, shape) for labels in met)
    ]
    tracer.tie(left)
    return None, left


def _meets_itself(tracer: ChannelTracer, statistic: Statistic, labels: Tensor, shape: Sequence[int]) -> bool:
    """True when every channel meets the statistic of its own row, and rows have as many channels each."""
    members, rows = distinct_pairs(statistic.members.long(), statistic.rows.long())
    sizes = rows.unique(return_counts=True)[1]
    if not members.all() or bool((sizes != sizes[0]).any()):
        return False
    row_of = torch.zeros(tracer.ledger.size, dtype=torch.float64)
    row_of[members] = rows.double()
    one, other = broadcast(thin(_led(labels, len(shape))), thin(statistic.labels.expand(tuple(shape))))
    if not torch.equal(row_of[one.long()], other):
        return False
    if tracer.dead is None:
        tracer.ledger.blocks.append((members[rows.argsort(stable=True)], len(sizes)))
    return True


def join(tracer: ChannelTracer, operands: Sequence[Tensor], shape: Sequence[int]) -> Tensor | None:
    """Labels of what is computed from several tensors that are broadcast to one shape."""
    views = []
    for tensor in operands:
        if (labels := tracer.labels(tensor)) is not None:
            whole = _led(labels, len(shape))
            views.append((tracer.is_loose(tensor), varying(whole), whole))
    if not views:
        return None
    views.sort(key=lambda view: (view[0], -len(view[1])))
    _, axes, found = views[0]
    for loose, other, labels in views[1:]:
        found = _join_two(tracer, (axes, found), (loose, other, labels))
        axes = varying(found)
    for tensor in operands:
        if tracer.labels(tensor) is None and tracer.is_given(tensor):
            before = len(shape) - tensor.dim()
            if any(axis >= before and _varies(tensor, axis - before) for axis in axes):
                tracer.keep(found, FIXED)
    return found.expand(tuple(shape))


def _led(labels: Tensor, dim: int) -> Tensor:
    """Labels with axes of size 1 before their own, so that there are `dim`."""
    return labels.reshape((1,) * (dim - labels.dim()) + tuple(labels.shape)) if labels.dim() < dim else labels


def _varies(tensor: Tensor, axis: int) -> bool:
    """True when numbers may differ along an axis: it is longer than 1 and not one number that is repeated."""
    return tensor.shape[axis] > 1 and tensor.stride(axis) != 0


def _join_two(
    tracer: ChannelTracer, one: tuple[set[int], Tensor], two: tuple[bool, set[int], Tensor]
) -> Tensor:
    (axes, found), (loose, other, labels) = one, two
    if other and other < axes and _scales_layers(tracer, labels, found):
        if not loose:
            tracer.keep(labels, FIXED)
        return found
    if axes & other or (not axes and not other and not loose):
        return tracer.meet(found, labels)
    if not other or not axes:  # one channel for all
        few, many = (labels, found) if not other else (found, labels)
        if not loose or not axes:
            tracer.keep(few, FIXED)
        return many
    if not loose:
        tracer.keep(found, CROSSED)
        tracer.keep(labels, CROSSED)
    return found


def _scales_layers(tracer: ChannelTracer, few: Tensor, many: Tensor) -> bool:
    """True when one number meets all channels of a layer, as the weight of an expert does."""
    one, other = (part.flatten().long() for part in broadcast(thin(few), thin(many)))
    both = (one > 0) & (other > 0)
    if not both.any():
        return False
    sources = list(tracer.ledger.labels.values())
    starts = torch.stack([labels.flatten()[0] for labels in sources if labels.numel()]).long()
    sizes = torch.tensor([labels.numel() for labels in sources if labels.numel()])
    one, other = distinct_pairs(one[both], other[both])
    source = torch.searchsorted(starts, other, right=True) - 1
    pairs, met = torch.unique(torch.stack([one, source]), dim=1, return_counts=True)
    size = sizes[pairs[1]]
    return bool(((met == size) & (size > 1)).any())


def reduce(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Over other axes than that of the channels labels stay; over channels it is a statistic."""
    if func._overloadname == "other":
        return compute_by_number(tracer, func, args, kwargs)  # the larger of two
    labels = tracer.labels(args[0])
    if labels is None:
        return statistics.reduce(tracer.dead_weights(args[0]), func, args, kwargs)
    dead = None if tracer.dead is None else tracer.is_dead(labels)
    result = statistics.reduce(dead, func, args, kwargs)
    axes, keepdim = statistics.axes_of(func, args, kwargs, labels.dim())
    rest = varying(labels) - set(axes)
    if varying(labels) & set(axes) and not rest:
        return result  # a statistic of all channels, which belongs to none
    flat = thin(labels)
    left = flat.amax(dim=tuple(axes), keepdim=True) if axes else flat
    statistic = Statistic(left, flat.flatten(), left.expand(flat.shape).flatten())
    for one in tensors_of(result):
        kept = left if keepdim or not axes else left.squeeze(tuple(axes))
        if one.dim() == kept.dim() and varying(labels) & set(axes):
            tracer.note_statistic(one, statistic._replace(labels=kept))
        elif one.dim() == kept.dim():
            tracer.note(one, kept)
    return result


def pool(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pooling and resizing: channels stay, places along the last axes become others."""
    result = func(*args, **kwargs)
    if (labels := tracer.labels(args[0])) is None:
        return result
    name = func.overloadpacket.__name__
    number = next(int(digit) for digit in name if digit.isdigit())
    axes = [labels.dim() - 1 - index for index in range(number)]
    if varying(labels) & set(axes):
        labels = tracer.merge(labels, axes)
    else:
        for axis in axes:
            labels = labels.narrow(axis, 0, 1)
    for one in tensors_of(result):
        tracer.note(one, labels)
    return result


def along_axis(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A softmax, or a running sum along an axis without channels."""
    labels = tracer.labels(args[0])
    name = func.overloadpacket.__name__
    if labels is None:
        return func(*args, **kwargs)
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % labels.dim()
    if "softmax" not in name:
        if axis in varying(labels):
            return keep_all(tracer, func, args, kwargs)
        return tracer.note(func(*args, **kwargs), labels)
    return tracer.note(statistics.softmax(tracer, labels, func, args, kwargs), labels)


def glu(tracer: ChannelTracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first half times the sigmoid of the second."""
    axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    with tracer:
        first, second = args[0].chunk(2, axis)
        return first * second.sigmoid()


RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, move),
    **dict.fromkeys(_KEEPS_PLACE, repeat_same),
    **dict.fromkeys(_REDUCES, reduce),
    **dict.fromkeys(_SPATIAL, pool),
    **dict.fromkeys(_PRODUCTS, attend),
    **dict.fromkeys(
        _names("softmax log_softmax _softmax _log_softmax cumsum cumprod logcumsumexp"), along_axis
    ),
    **dict.fromkeys(_names("lstm gru rnn_tanh rnn_relu"), recur),
    **dict.fromkeys(_names("layer_norm rms_norm group_norm batch_norm instance_norm"), normalize),
    **dict.fromkeys(
        _names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"), convolve
    ),
    **dict.fromkeys(_names("masked_fill _prelu_kernel"), compute_by_number),
    **dict.fromkeys(_names("zeros_like ones_like full_like empty_like rand_like randn_like"), make_alike),
    "im2col": take_patches,
    "col2im": fold,
    "constant_pad_nd": pad,
    "glu": glu,
    "linear": linear,
    "embedding": embed,
}
