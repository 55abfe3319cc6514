"""A user's model, called with tensors in order and giving tensors in order.

Forwards take inputs by position or by keyword, and give a tensor, a tuple, a dictionary, a dataclass, or
these inside of each other. Everything else here calls a model with a tensor for each input of the
signature, and expects one for each output. A model that is otherwise gets a subclass of its own class,
whose forward hands the tensors over by name and picks the outputs that are kept; names of modules and
weights stay.

Outputs inside of others are named by their path: `states.0`, `output_1.0`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lissom.artifact import TensorSpec
from lissom.errors import ModelError, near
from lissom.logs import log

ALL_OUTPUTS = "all"
"""Keeps every output by its name."""
MATTERS_MOST = "logits"
"""The output that is taken where a model gives one of this name and none was asked for."""
_LAZY_SAMPLES = 2
_CALL_SIZE = "_lissom_call_size"


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of what torch.compile and DataParallel put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_uninitialized(model: nn.Module) -> bool:
    """True when a lazy layer has not seen an input yet."""
    return any(is_lazy(one) for one in (*model.parameters(), *model.buffers()))


def initialize(model: nn.Module, inputs: Sequence[TensorSpec]) -> None:
    """Give lazy layers their shapes, by one call with zeros.

    Args:
        model: Already adapted, where it needs to be.
        inputs: What the model takes, in order.
    """
    samples = [
        torch.zeros(
            [dim if isinstance(dim, int) else _LAZY_SAMPLES for dim in spec.shape],
            dtype=getattr(torch, spec.dtype),
        )
        for spec in inputs
    ]
    training = model.training
    with torch.no_grad():
        model.eval()(*samples)
    model.train(training)


def arguments_of(model: nn.Module, names: Sequence[str], source: str) -> tuple[str, ...]:
    """Keywords by which the inputs are handed over; empty where they are its first positional parameters.

    Args:
        model: The model.
        names: Of the inputs, in order.
        source: Where the inputs come from, for messages.

    Raises:
        ModelError: the forward takes keywords only, and the names are others.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    places = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    keywords = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    if all(name in keywords for name in names) and {*needed} <= {*names}:
        return () if {*places[: len(names)]} == {*names} else tuple(names)
    if places or any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return ()
    if takes_any and {*needed} <= {*names}:
        return tuple(names)
    if len(names) == len(needed) == 1:  # one input: what it is called does not matter
        return tuple(needed)
    raise ModelError(
        f"the model takes {', '.join(_shown(parameters))} by keyword; {source} gives {', '.join(names)}",
        hint="name the arrays as the parameters of the forward",
    )


def _shown(parameters: Any) -> list[str]:
    """Parameters, those that may be left out in brackets.

    >>> _shown(inspect.signature(lambda a, b=None, *c: 0).parameters.values())
    ['a', '[b]', '*c']
    """
    found = []
    for one in parameters:
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        found.append(f"{stars}{one.name}" if one.default is one.empty else f"[{one.name}]")
    return found


def is_plain(outputs: Any) -> bool:
    """True for a tensor, and for a tuple or list of tensors without names."""
    if isinstance(outputs, Tensor):
        return True
    sequence = isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields")
    return sequence and bool(outputs) and all(isinstance(one, Tensor) for one in outputs)


def named_tensors(outputs: Any) -> dict[str, Tensor]:
    """Every tensor of what a forward gave, by its path; what is no tensor is left out.

    >>> list(named_tensors({"a": torch.zeros(1), "b": (torch.zeros(1), None)}))
    ['a', 'b.0']
    >>> list(named_tensors((torch.zeros(1), [torch.zeros(1)])))
    ['output_0', 'output_1.0']
    """
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    parts = _parts(outputs)
    bare = isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields")
    return {
        path: tensor
        for name, part in parts.items()
        for path, tensor in _under(f"output_{name}" if bare else name, part).items()
    }


def _under(path: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {path: value}
    return {
        found: tensor
        for name, part in _parts(value).items()
        for found, tensor in _under(f"{path}.{name}", part).items()
    }


def _parts(value: Any) -> dict[str, Any]:
    """What is inside of a container, by name or place; nothing for what is none."""
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return {str(place): part for place, part in enumerate(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return {}


def chosen_outputs(outputs: Any, asked: str | None, fits: Callable[[Tensor], bool] | None) -> tuple[str, ...]:
    """Names of the outputs that are kept, in order; empty where what the forward gives is taken as it is.

    Without a wish, labelled data take one: `logits`, else the first that fits the labels. Others take
    `logits` where there is one, else all.

    Args:
        outputs: What the forward gave.
        asked: Name of an output, "all", or None.
        fits: Whether an output can be compared with the labels; None where there are none.

    Raises:
        ModelError: there is no such output, none that fits, or no tensor at all; the names are listed.
    """
    if is_plain(outputs) and asked in (None, ALL_OUTPUTS):
        return ()
    found = named_tensors(outputs)
    if not found:
        raise ModelError(
            f"the forward gives a {type(outputs).__name__} without a tensor in it",
            hint="give a tensor, or a tuple, dict or dataclass of tensors",
        )
    if asked == ALL_OUTPUTS:
        return tuple(found)
    listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in found.items())
    if asked is not None:
        if asked not in found:
            raise ModelError(
                f"the model has no output {asked!r}; it gives {listed}",
                hint=f"--output NAME: {near(asked, [*found, ALL_OUTPUTS])}",
            )
        return (asked,)
    kept = _usual_outputs(found, fits)
    if not kept:
        raise ModelError(
            f"none of the model's outputs fits the labels: it gives {listed}",
            hint=f"name the one that matters: --output NAME (model.output in a recipe), NAME one of "
            f"{', '.join(found)}",
        )
    if left := [name for name in found if name not in kept]:
        log.warning(
            "of what the model gives, %s is kept and %s left out; --output NAME (model.output in a recipe) "
            "takes another, --output all keeps all",
            ", ".join(kept),
            ", ".join(left),
        )
    return kept


def _usual_outputs(found: Mapping[str, Tensor], fits: Callable[[Tensor], bool] | None) -> tuple[str, ...]:
    """What is kept where none was asked for; empty where the labels fit none."""
    first = sorted(found, key=lambda name: name != MATTERS_MOST)
    if fits is not None:
        return tuple(name for name in first if fits(found[name]))[:1]
    return (MATTERS_MOST,) if MATTERS_MOST in found else tuple(found)


def adapt(
    model: nn.Module,
    arguments: Sequence[str],
    outputs: Sequence[str],
    computes_in: str = "",
    *,
    samples_per_call: int = 0,
) -> nn.Module:
    """Let a model take tensors in order and give those outputs in order; changes it in place.

    Args:
        model: The model.
        arguments: Keyword of each input; empty for their order.
        outputs: Names of the outputs, of which one is given as a tensor, several as a tuple; empty for what
            the forward gives.
        computes_in: Type into which inputs of floats are cast. Of float32 and bfloat16, outputs of bfloat16,
            which NumPy does not have, become float32.
        samples_per_call: Samples that the forward takes, where it takes no other number; it is then called as
            often as there are samples, and must give tensors; 0 for any.

    Raises:
        ModelError: it is a ScriptModule, whose forward cannot be changed.
    """
    if not arguments and not outputs and not computes_in and not samples_per_call:
        return model
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"a ScriptModule takes {', '.join(arguments) or 'its inputs'} and gives "
            f"{', '.join(outputs) or 'its outputs'} by name, which cannot be changed once it is compiled",
            hint="let the factory give the module before torch.jit.script, or one that gives a tensor",
        )
    given, signature = type(model), inspect.signature(type(model).forward)
    of_instance = "forward" in vars(model)  # one that was set on the instance stands in front of the class
    if of_instance:
        vars(model)["_forward_of_instance"] = vars(model).pop("forward")

    def answer(self: Any, *tensors: Tensor) -> Any:
        if computes_in:
            tensors = tuple(_cast(tensor, computes_in) for tensor in tensors)
        call = vars(self)["_forward_of_instance"] if of_instance else partial(given.forward, self)
        result = call(**dict(zip(arguments, tensors, strict=True))) if arguments else call(*tensors)
        if outputs:
            kept = tuple(_at(result, name) for name in outputs)
            result = kept[0] if len(kept) == 1 else kept
        return _as_float32(result) if computes_in in ("bfloat16", "float32") else result

    def forward(self: Any, *tensors: Tensor) -> Any:
        if not samples_per_call or len(tensors[0]) == samples_per_call:
            return answer(self, *tensors)
        return answer_in_calls(partial(answer, self), tensors, samples_per_call)

    if arguments:  # for who asks which inputs there are, as torch.export does
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("self", *arguments)]
        signature = inspect.Signature(places)
    forward.__signature__ = signature  # type: ignore[attr-defined]
    own = {"forward": forward, "__module__": given.__module__, "__qualname__": given.__qualname__}
    size = {_CALL_SIZE: samples_per_call or call_size(model)}
    model.__class__ = type(given.__name__, (given,), {**own, **size})
    return model


def call_size(model: nn.Module) -> int:
    """Samples of each call of an adapted model where it takes no other number; 0 for any."""
    return int(getattr(model, _CALL_SIZE, 0))


def answer_in_calls(answer: Callable[..., Any], tensors: Sequence[Tensor], size: int) -> Any:
    """Answers to any number of samples, by calls of so many; the last sample fills up the last call.

    Args:
        answer: Takes tensors of `size` samples, gives a tensor or several.
        tensors: Of shape [samples, ...].
        size: Samples of a call.
    """
    rows = len(tensors[0])
    answers = []
    for start in range(0, rows, size):
        places = torch.arange(start, start + size, device=tensors[0].device).clamp(max=rows - 1)
        answers.append(answer(*(tensor[places] for tensor in tensors)))
    if isinstance(answers[0], Tensor):
        return _together(answers, size, rows)
    return tuple(_together(parts, size, rows) for parts in zip(*answers, strict=True))


def _together(parts: Sequence[Tensor], size: int, rows: int) -> Tensor:
    """Answers of several calls along the axis of the samples; along a new first one where there is none."""
    axes = [axis for axis, found in enumerate(parts[0].shape) if found == size]
    if not axes:
        return torch.stack(list(parts))[:rows]
    return torch.cat(list(parts), axes[0]).narrow(axes[0], 0, rows)


def _cast(tensor: Tensor, kind: str) -> Tensor:
    return tensor.to(getattr(torch, kind)) if tensor.is_floating_point() else tensor


def _as_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    return tuple(map(_as_float32, value)) if isinstance(value, tuple | list) else value


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter need a gradient while this is open.

    Also without gradients recorded, a parameter that needs one makes torch take other ways: fused attention
    refuses it as a mask, and counters hook into the gradient of a view of it, which has none.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _at(value: Any, path: str) -> Any:
    """The tensor at a path; see `named_tensors`."""
    bare = isinstance(value, tuple | list) and not hasattr(value, "_fields")
    rest = path.removeprefix("output_") if bare else path
    while not isinstance(value, Tensor):
        if isinstance(value, Mapping) and rest in value:  # a name may hold a dot itself
            return value[rest]
        name, _, rest = rest.partition(".")
        if isinstance(value, Mapping):
            value = next(part for key, part in value.items() if str(key) == name)
        elif isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            value = value[int(name)]
        else:
            value = getattr(value, name)
    return value
