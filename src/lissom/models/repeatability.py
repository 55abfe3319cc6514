"""A model in evaluation mode answers the same twice, or it is said what keeps it from that.

Everything that is proven of a model, that it was stored, exported or pruned rightly, compares answers. Where
two calls with the same samples differ, no such proof can be had: dropout that stays active, other random
numbers, a buffer or an attribute that the forward changes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lissom.adaptation import named_tensors
from lissom.causes import line_of
from lissom.errors import ModelError

_DROPOUTS = ("dropout", "bernoulli")
"""In the names of the operations that dropout is made of."""


def repeated(model: nn.Module, call: Callable[[], Any]) -> Any:
    """What a call gives, after a second one gave the same; buffers are left as they were.

    Args:
        model: In evaluation mode.
        call: Calls it with the same samples each time.

    Raises:
        ModelError: the second answer differs; what is found to be the cause is named.
    """
    before = {name: buffer.clone() for name, buffer in _buffers(model).items()}
    given = call()
    first = {name: tensor.clone() for name, tensor in named_tensors(given).items()}
    changed = [name for name, buffer in before.items() if not _same(buffer, _buffers(model).get(name))]
    again = named_tensors(call())
    differing = [name for name, tensor in first.items() if not _same(tensor, again.get(name))]
    if differing:
        raise _error(model, call, changed)
    for name in changed:
        _put_back(model, name, before[name])
    return given


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Leave the buffers of a model as they are, whatever is called while this is open."""
    before = {name: buffer.clone() for name, buffer in _buffers(model).items()}
    try:
        yield
    finally:
        now = _buffers(model)
        for name, buffer in before.items():
            if not _same(buffer, now.get(name)):
                _put_back(model, name, buffer)


def _put_back(model: nn.Module, name: str, buffer: Tensor) -> None:
    """Give a buffer its earlier value, also where the forward has put another tensor in its place."""
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._buffers[leaf] = buffer


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that have values: those of lazy layers may not yet."""
    return {name: one for name, one in model.named_buffers() if not nn.parameter.is_lazy(one)}


def _same(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape:
        return False
    return bool(torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))


def _error(model: nn.Module, call: Callable[[], Any], changed: Sequence[str]) -> ModelError:
    differ = "two calls in evaluation mode with the same samples give different answers"
    with _Random() as random:
        call()
    active = [name for name, one in model.named_modules() if one.training and name]
    if any(part in name for name in random.operations for part in _DROPOUTS):
        where = f" in {', '.join(map(repr, active[:3]))}" if active else ""
        return ModelError(
            f"{differ}: dropout is active{where}{_told(random.operations)}",
            hint="let it follow the mode: F.dropout(x, p, training=self.training), no train() in a forward",
        )
    if random.operations:
        name = next(iter(random.operations))
        return ModelError(
            f"{differ}: the forward draws random numbers ({name}){_told(random.operations)}",
            hint="draw them only while self.training, or take the noise as an input",
        )
    if changed:
        return ModelError(
            f"{differ}: the forward changes the buffer {', '.join(map(repr, changed[:3]))}",
            hint="change buffers only while self.training, or take the state as an input and give it back",
        )
    return ModelError(
        f"{differ}: the forward keeps something in an attribute from call to call",
        hint="let the answer follow from inputs, parameters and buffers alone",
    )


def _told(operations: Mapping[str, str]) -> str:
    place = next(iter(operations.values()))
    return f"\n  {place}" if place else ""


_CALLER = (__file__, _error.__name__)


class _Random(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that draws random numbers, with the user's line that called it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: dict[str, str] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            stack = [(one.filename, one.lineno or 0, one.name) for one in traceback.extract_stack()]
            below = max(place for place, (file, _, name) in enumerate(stack) if (file, name) == _CALLER)
            self.operations.setdefault(function.overloadpacket.__name__, line_of(stack[below:]))
        return function(*args, **(kwargs or {}))
