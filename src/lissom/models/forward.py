"""What a torch model takes: the parameters of its forward by name, and the dtypes that it computes with.

A torch module declares names, but neither shapes nor dtypes. Arrays are put into the order of its parameters
by their names; where the forward takes anything (`*args`), or one input, there is nothing to match. Dtypes
are found by trying: the data's own first, which is what the user's own code would hand over, then what
models usually take, int64 for indices and float32 for all else.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING

import numpy as np

from lissom.errors import DataError, near
from lissom.models.data import Data
from lissom.models.dataset import usual_dtype
from lissom.runtime.arrays import tensor_of
from lissom.runtime.conversion import convert

if TYPE_CHECKING:
    from torch import nn

_MOST_TRIALS = 24
_NUM_SAMPLES = 2
_USUAL = ("float32", "int64")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def is_plain(data: Data) -> bool:
    """True where a torch model can be called without asking what it takes: one input of a usual dtype."""
    (array, *others) = data.dataset.inputs.values()
    return not others and array.dtype.name in _USUAL


def required_inputs(model: nn.Module) -> list[str]:
    """Names of the inputs without which the forward cannot be called."""
    return [one.name for one in _parameters(model) if one.default is one.empty]


def taken_by_torch(model: nn.Module, data: Data) -> Data:
    """The data by the names of a forward, in its order, and in the dtypes with which it runs.

    Dtypes that the data have from another model are kept.

    Raises:
        DataError: there are several arrays, or several inputs are needed, and their names are not the same.
    """
    ordered = _in_order(model, data)
    if data.taken or is_plain(data):
        return ordered
    dtypes = _accepted(model, ordered)
    specs = ordered.input_specs
    return ordered.taken_by([spec.model_copy(update={"dtype": dtypes[spec.name]}) for spec in specs])


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """Positional parameters of a forward; empty where it takes anything, or cannot be read."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return []
    return [one for one in parameters if one.kind in _POSITIONAL]


def _in_order(model: nn.Module, data: Data) -> Data:
    names, parameters = list(data.dataset.inputs), _parameters(model)
    known, required = [one.name for one in parameters], required_inputs(model)
    if not parameters or (len(names) == 1 and len(required) <= 1):
        return data
    chosen = [name for name in known if name in names]
    if {*names} - {*known} or {*required} - {*names}:
        raise _mismatch(required, known, data)
    if gap := [name for name in known[: known.index(chosen[-1])] if name not in names]:
        raise DataError(
            f"{data.source} has {', '.join(names)}, but not {gap[0]!r}, which stands before "
            f"{chosen[-1]!r} in forward({', '.join(known)})",
            hint=f"add an array {gap[0]}, or a forward that takes {', '.join(chosen)}",
        )
    if chosen == names:
        return data
    specs = {spec.name: spec for spec in data.input_specs}
    return data.taken_by([specs[name] for name in chosen])


def _mismatch(required: Sequence[str], known: Sequence[str], data: Data) -> DataError:
    """The error for arrays that are not the parameters of a forward."""
    names = list(data.dataset.inputs)
    missing = [name for name in required if name not in names]
    unknown = [name for name in names if name not in known]
    told = [f"missing: {', '.join(missing)}"] if missing else []
    told += [f"unknown: {', '.join(unknown)}"] if unknown else []
    advice = near(unknown[0], missing or known) if unknown else f"add {', '.join(missing)}"
    if missing and data.dataset.labels is not None and "y" in missing:
        advice = f"to give y as an input: FILE.npz?inputs={','.join(required)}"
    return DataError(
        f"the model takes forward({', '.join(known)}); {data.source} has {', '.join(names)} "
        f"({'; '.join(told)})",
        hint=f"arrays are matched by name: {advice}",
    )


def _accepted(model: nn.Module, data: Data) -> dict[str, str]:
    """The first dtypes with which the model runs on two samples; the usual ones where it runs with none."""
    import torch

    stepped = {step.input for step in data.dataset.preprocessing}
    arrays = {name: array[:_NUM_SAMPLES] for name, array in data.dataset.inputs.items()}
    usual = {name: "float32" if name in stepped else usual_dtype(array) for name, array in arrays.items()}
    if all(array.dtype.name == usual[name] for name, array in arrays.items()):
        return usual
    offers = [[usual[name]] if name in stepped else _offers(array.dtype) for name, array in arrays.items()]
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(model).eval()  # a forward may count its calls
        for dtypes in islice(product(*offers), _MOST_TRIALS):
            if _runs(trial, arrays, dtypes):
                return dict(zip(arrays, dtypes, strict=True))
    return usual


def _offers(dtype: np.dtype) -> list[str]:
    """Dtypes to try for an array of a dtype, its own first."""
    others = {"f": ["float32"], "i": ["int64", "float32"], "b": ["float32", "int64"]}
    return list(dict.fromkeys([dtype.name, *others.get(dtype.kind, ["float32", "int64"])]))


def _runs(model: nn.Module, arrays: dict[str, np.ndarray], dtypes: Sequence[str]) -> bool:
    import torch

    try:
        with torch.inference_mode():
            model(*_tensors(arrays, dtypes))
    except Exception:  # the user's forward may raise anything: it does not take this
        return False
    return True


def _tensors(arrays: dict[str, np.ndarray], dtypes: Sequence[str]) -> Iterator[object]:

    for (name, array), dtype in zip(arrays.items(), dtypes, strict=True):
        yield tensor_of(convert(name, array, dtype))
