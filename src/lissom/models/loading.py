"""From the MODEL of a recipe or of the command line to a factory and its weights."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from torch.nn.parameter import is_lazy

from lissom.adaptation import adapt, arguments_of, chosen_outputs, is_uninitialized, named_tensors
from lissom.artifact import Factory, TensorSpec
from lissom.errors import ModelError, near, near_files
from lissom.factories import build
from lissom.models.call_sizes import rows_of, samples_per_call
from lissom.models.data import Data
from lissom.models.forward import taken_by_torch
from lissom.models.repeatability import repeated
from lissom.models.stages import NUM_PROBE, call
from lissom.models.tasks import task_name, task_of
from lissom.recipe import ModelConfig
from lissom.registry import MODELS, resolve, source_sha256
from lissom.structure import check_state

if TYPE_CHECKING:
    from torch import nn

_KEYS = ("state_dict", "model_state_dict", "model")
"""Under which checkpoints keep the weights of the model."""
_PREFIXES = {"module.": "DataParallel", "model.": "Lightning", "_orig_mod.": "torch.compile"}
"""What is put before the names of weights, and by whom."""


def start(config: ModelConfig, data: Data) -> tuple[nn.Module, Factory]:
    """The model of a recipe with its weights, and the factory that builds it again.

    Raises:
        ModelError: it cannot be built, does not take the samples, or its weights do not fit.
    """
    factory = factory_for(config, data)
    model = build(factory)
    factory = _settle(model, factory, config, data)
    if config.weights is not None:
        _load(model, Path(config.weights))
    return model, factory


def _settle(model: nn.Module, factory: Factory, config: ModelConfig, data: Data) -> Factory:
    """Find out how the model is called, by a call with a few samples, and adapt it to that."""
    arguments = take_by_name(model, data)
    data = taken_by_torch(model, data)
    lazy, training = is_uninitialized(model), model.training
    samples = few_samples(data)
    computes_in = _computing_type(model.eval(), data, samples)
    adapt(model, (), (), computes_in)
    size = samples_per_call(model, data, samples)
    few = rows_of(samples, size) if size else samples
    given = repeated(model, lambda: call(model, data, few))
    if not computes_in and any(one.dtype == torch.bfloat16 for one in named_tensors(given).values()):
        computes_in = "float32"
        adapt(model, (), (), computes_in)
    model.train(training)
    outputs = chosen_outputs(given, config.output, _fitting(config, data))
    adapt(model, (), outputs, samples_per_call=size)
    return factory.model_copy(
        update={
            "arguments": arguments,
            "outputs": outputs,
            "computes_in": computes_in,
            "shaped_by": data.input_specs if lazy else (),
            "samples_per_call": size,
        }
    )


def _computing_type(model: nn.Module, data: Data, samples: Mapping[str, np.ndarray]) -> str:
    """The type into which floats must be cast for the model; empty where it takes them as they are."""
    kinds = {one.dtype for one in model.parameters() if not is_lazy(one) and one.is_floating_point()}
    if len(kinds) != 1 or kinds == {torch.float32}:
        return ""
    try:
        call(model, data, samples)
    except ModelError:
        return str(kinds.pop()).removeprefix("torch.")
    return ""


def _fitting(config: ModelConfig, data: Data) -> Callable[[torch.Tensor], bool] | None:
    """Whether an output can be what the labels are compared with; None where there are no labels."""
    if data.dataset.labels is None:
        return None
    task = task_of(task_name(config.task, data), data)

    def fits(output: torch.Tensor) -> bool:
        spec = TensorSpec(
            name="output",
            dtype=str(output.dtype).removeprefix("torch."),
            shape=("batch", *output.shape[1:]) if output.ndim else (),
        )
        try:
            task.check([spec], data)
        except ModelError:
            return False
        return True

    return fits if len(data.indices["train"]) else lambda output: True


def take_by_name(model: nn.Module, data: Data) -> tuple[str, ...]:
    """Let the model take its inputs in the order of the data where it needs keywords; gives those."""
    arguments = arguments_of(model, list(data.dataset.inputs), data.source)
    adapt(model, arguments, ())
    return arguments


def few_samples(data: Data) -> dict[str, np.ndarray]:
    """As many samples as a probe has, of the first split that has any."""
    split = next(name for name in ("select", "calibrate", "train", "report") if len(data.indices[name]))
    return {name: array[:NUM_PROBE] for name, array in data.tensors(split).items()}


def factory_for(config: ModelConfig, data: Data) -> Factory:
    """The factory of a recipe; what its arguments can be told from the data need not be given.

    Raises:
        ModelError: the recipe names an argument that the factory does not take.
    """
    function = resolve(config.source, known=MODELS)
    takes = inspect.signature(function).parameters
    _check_arguments(config, takes)
    fitting = {name: value for name, value in _from_data(data).items() if name in takes and value}
    return Factory(
        source=config.source,
        kwargs={**fitting, **config.kwargs},
        sha256=source_sha256(config.source, known=MODELS),
    )


def _check_arguments(config: ModelConfig, takes: Mapping[str, inspect.Parameter]) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for name in config.kwargs:
        if name not in takes:
            raise ModelError(
                f"{config.source} cannot be built with {name!r}: it has no such argument",
                hint=near(name, takes) if takes else "it has no arguments",
            )


def _from_data(data: Data) -> dict[str, int]:
    """Arguments that a factory may take, by name: sizes of the first input, and of the labels."""
    spec = data.input_specs[0]
    shape = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
    sizes = {"in_features": math.prod(shape), "num_classes": _num_outputs(data)}
    if spec.dtype in ("int32", "int64"):
        highest = int(next(iter(data.dataset.inputs.values())).max())
        if data.kind == "tokens" and data.dataset.labels is not None:
            highest = max(highest, int(data.dataset.labels.max()))
        return sizes | {"vocab_size": highest + 1, "max_length": shape[0] if shape else 1}
    return sizes | {
        "in_channels": shape[0] if shape else 1,
        "image_size": shape[-1] if len(shape) == 3 else 0,
    }


def _num_outputs(data: Data) -> int:
    """Classes, or values of a label."""
    return data.num_values if data.kind == "values" else data.num_classes


def _load(model: nn.Module, path: Path) -> None:
    """Load a file of weights.

    Raises:
        ModelError: the weights are missing, pickled objects, or of another architecture.
    """
    if not path.is_file():
        raise ModelError(f"no weights at {path}", hint=near_files(path))
    state = _read(path)
    try:
        check_state(model, state)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc.message}", hint=_advice(model, path, state)) from exc
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; no object is unpickled."""
    if path.suffix != ".safetensors":
        return _unpickled_safely(path)
    try:
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as exc:
        raise ModelError(f"{path} is not a safetensors file: {exc}") from exc


def _advice(model: nn.Module, path: Path, names: Collection[str]) -> str:
    """What to do about weights that do not fit: drop a prefix of the names, or build another model."""
    wanted = model.state_dict().keys()
    for prefix, writer in _PREFIXES.items():
        renamed = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        if len(renamed) == len(names) and renamed & wanted:
            return f"every name begins with {prefix!r}, as {writer} writes them; {_renaming(path, prefix)}"
    return (
        "build the model with the arguments of these weights: model.kwargs in a recipe, --kwarg in a command"
    )


def _renaming(path: Path, prefix: str) -> str:
    """The command that drops a prefix from every name in a file of weights."""
    weights = path.with_name(f"{path.stem}-renamed.safetensors")
    read = f"torch.load('{path}', weights_only=True, map_location='cpu')"
    found = f"load_file('{path}')" if path.suffix == ".safetensors" else _inner(read)
    return (
        'drop it:\n  python -c "import torch; from safetensors.torch import load_file, save_file; '
        f"c = {found}; save_file({{k.removeprefix('{prefix}'): v.contiguous().clone() "
        f"for k, v in c.items()}}, '{weights}')\"\nand go on with --weights {weights}"
    )


def _inner(read: str) -> str:
    """Python that reads a checkpoint and gives the weights inside of it."""
    return f"next((c[k] for c in [{read}] for k in {_KEYS} if isinstance(c.get(k), dict)), {read})"


def _conversion(path: Path) -> str:
    """The command that turns a pickled checkpoint into plain tensors, for a file that is trusted."""
    weights = path.with_suffix(".safetensors")
    return (
        "where you trust it, convert it once:\n"
        f"  python -c \"import torch; from safetensors.torch import save_file; c = torch.load('{path}', "
        "weights_only=False, map_location='cpu'); c = c.get('state_dict', c) if isinstance(c, dict) else "
        f"c.state_dict(); save_file({{k: v.contiguous().clone() for k, v in c.items()}}, '{weights}')\"\n"
        f"and go on with --weights {weights}"
    )


def _unpickled_safely(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelError(
            f"{path} holds pickled Python objects, which run code when they are loaded; refused",
            hint=_conversion(path),
        ) from exc
    except (RuntimeError, EOFError, OSError) as exc:
        problem = (str(exc) or type(exc).__name__).splitlines()[0]
        raise ModelError(f"{path} is not a file of torch weights: {problem}") from exc
    if isinstance(state, dict):
        state = next((state[key] for key in _KEYS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        keys = f"; its keys are {', '.join(map(repr, list(state)[:5]))}" if isinstance(state, dict) else ""
        raise ModelError(
            f"{path} holds no dictionary of tensors{keys}",
            hint=f"write the weights alone: torch.save(model.state_dict(), '{path}')",
        )
    return state
