"""From the MODEL of a recipe or of the command line to a factory and its weights."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lissom.artifact import Factory
from lissom.errors import ModelError
from lissom.models.data import Data
from lissom.recipe import ModelConfig
from lissom.registry import MODELS, resolve, source_sha256
from lissom.structure import build, check_state, load_weights

if TYPE_CHECKING:
    from torch import nn


def factory_for(config: ModelConfig, data: Data) -> Factory:
    """The factory of a recipe; channels, features and classes come from the data unless they are given."""
    function = resolve(config.source, known=MODELS)
    takes = inspect.signature(function).parameters
    shape = data.input_specs[0].shape[1:]
    from_data: dict[str, Any] = {"in_channels": shape[0] if shape else 1, "num_classes": data.num_classes}
    from_data["in_features"] = int(torch.Size([dim for dim in shape if isinstance(dim, int)]).numel())
    fitting = {name: value for name, value in from_data.items() if name in takes and value}
    return Factory(
        source=config.source,
        kwargs={**fitting, **config.kwargs},
        sha256=source_sha256(config.source, known=MODELS),
    )


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
        raise ModelError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        return load_weights(model, path.read_bytes())
    state = _unpickled_safely(path)
    check_state(model, state)
    model.load_state_dict(state)
    return model


def _unpickled_safely(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ModelError(
            f"{path} holds pickled Python objects, which run code when they are loaded; refused",
            hint="where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=False)"
            ".state_dict(), 'weights.safetensors')",
        ) from exc
    except (RuntimeError, EOFError, OSError) as exc:
        problem = (str(exc) or type(exc).__name__).splitlines()[0]
        raise ModelError(f"{path} is not a file of torch weights: {problem}") from exc
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no dictionary of tensors")
    return state
