"""From the MODEL of a recipe or of the command line to a factory and its weights."""

from __future__ import annotations

import inspect
import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lissom.artifact import Factory
from lissom.errors import ModelError, near_files
from lissom.models.data import Data
from lissom.recipe import ModelConfig
from lissom.registry import MODELS, resolve, source_sha256
from lissom.structure import build, check_state, load_weights

if TYPE_CHECKING:
    from torch import nn


def factory_for(config: ModelConfig, data: Data) -> Factory:
    """The factory of a recipe; what its arguments can be told from the data need not be given."""
    function = resolve(config.source, known=MODELS)
    takes = inspect.signature(function).parameters
    fitting = {name: value for name, value in _from_data(data).items() if name in takes and value}
    return Factory(
        source=config.source,
        kwargs={**fitting, **config.kwargs},
        sha256=source_sha256(config.source, known=MODELS),
    )


def _from_data(data: Data) -> dict[str, int]:
    """Arguments that a factory may take, by name: sizes of the first input, and of the labels."""
    spec = data.input_specs[0]
    shape = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
    sizes = {"in_features": math.prod(shape), "num_classes": _num_outputs(data)}
    if spec.dtype == "int64":
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
    if data.kind == "values":
        return data.labels("train")[:1].size
    return data.num_classes


def model_for(config: ModelConfig, factory: Factory) -> nn.Module:
    """Build the model and load its weights, when the recipe names any.

    Raises:
        ModelError: the weights are missing, pickled objects, or of another architecture.
    """
    model = build(factory)
    if config.weights is None:
        return model
    path = Path(config.weights)
    if not path.is_file():
        raise ModelError(f"no weights at {path}", hint=near_files(path))
    if path.suffix == ".safetensors":
        return load_weights(model, path.read_bytes())
    state = _unpickled_safely(path)
    check_state(model, state)
    model.load_state_dict(state)
    return model


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
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no dictionary of tensors")
    return state
