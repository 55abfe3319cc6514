"""The structure of a changed torch model as data: record, rebuild over the factory, load.

A pruned model is not what its factory builds, so weights alone cannot be loaded. Pickling the module
would run code at load. Instead we record the shape of every parameter and buffer, and every int or
tuple-of-int attribute that a module has otherwise than the factory makes it (`out_channels`, `groups`,
`normalized_shape`, ...); shapes alone do not rebuild grouped convolutions or norms. To load, the
factory builds the original, the record is laid over it, and the weights are loaded strictly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from lissom.artifact import Artifact, Factory
from lissom.errors import ArtifactError, ModelError
from lissom.registry import MODELS, resolve, source_files, source_sha256

if TYPE_CHECKING:
    from torch import nn

STRUCTURE_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


def build(factory: Factory) -> nn.Module:
    """Call the factory.

    Raises:
        ModelError: it refuses the keyword arguments, or does not give a module.
    """
    function = resolve(factory.source, known=MODELS)
    try:
        model = function(**factory.kwargs)
    except Exception as exc:  # the user's code may raise anything; what it says is what matters
        problem = f"{type(exc).__name__}: {exc}"
        raise ModelError(f"{factory.source} cannot be built with {factory.kwargs}: {problem}") from exc
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{factory.source} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _original(factory: Factory) -> nn.Module:
    """The factory's model for its structure alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        return build(factory)


def record(model: nn.Module, factory: Factory) -> dict[str, Any]:
    """What must be laid over the factory's model to get the structure of `model`.

    Raises:
        ModelError: modules were added or removed, which is not recorded.
    """
    original = dict(_original(factory).named_modules())
    changed = dict(model.named_modules())
    if original.keys() != changed.keys():
        difference = sorted(original.keys() ^ changed.keys())
        raise ModelError(
            f"the modules of the model are not those of {factory.source}: {', '.join(difference[:5])}"
        )
    attributes = {
        name: differing
        for name, module in changed.items()
        if (differing := _changed_attributes(module, original[name]))
    }
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"attributes": attributes, "shapes": shapes}


def rebuild(factory: Factory, structure: Mapping[str, Any]) -> nn.Module:
    """The factory's model with the recorded structure; its weights are still to be loaded."""
    model = _original(factory)
    modules = dict(model.named_modules())
    for name, attributes in structure["attributes"].items():
        if name not in modules:
            raise ArtifactError(f"the factory's model has no {name}, which the recorded structure names")
        for attribute, value in attributes.items():
            setattr(modules[name], attribute, _as_tuples(value))
    for name, shape in structure["shapes"].items():
        place, _, leaf = name.rpartition(".")
        _resize(modules.get(place), leaf, tuple(shape), name)
    return model


def load_model(artifact: Artifact) -> nn.Module:
    """The torch model of an artifact, in evaluation mode.

    Raises:
        ArtifactError: the artifact is not torch, or its factory or weights are not those it was made with.
    """
    factory = factory_of(artifact)
    found = source_sha256(factory.source, known=MODELS)
    if found != factory.sha256:
        files = source_files(factory.source, known=MODELS)
        raise ArtifactError(
            f"the source of {factory.source} has changed since {artifact.path.name} was made",
            hint=f"run the recipe again, or restore {', '.join(sorted(path.name for path in files))}",
        )
    structure = json.loads(artifact.file(STRUCTURE_FILE).read_bytes())
    return load_weights(rebuild(factory, structure), artifact.file(WEIGHTS_FILE).read_bytes())


def factory_of(artifact: Artifact) -> Factory:
    """The factory of a torch artifact.

    Raises:
        ArtifactError: the artifact has another format.
    """
    if artifact.manifest.format != "torch" or artifact.manifest.factory is None:
        raise ArtifactError(
            f"{artifact.path.name} has the format {artifact.manifest.format}; a torch model was asked for",
            hint="name the folder of the stage before export",
        )
    return artifact.manifest.factory


def load_weights(model: nn.Module, content: bytes) -> nn.Module:
    """Load the bytes of a safetensors file strictly, and switch to evaluation mode.

    Raises:
        ModelError: a tensor is missing, unknown, or of another shape; the first that differ are named.
    """
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as exc:
        raise ModelError(f"the weights are not a safetensors file: {exc}") from exc
    check_state(model, tensors)
    model.load_state_dict(tensors)
    return model.eval()


def check_state(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare names and shapes of weights with those of a model.

    Raises:
        ModelError: naming the first that differ in the order of the model, then what it does not have.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        lines = [
            f"{name}: model {wanted.get(name, 'absent')}, file {found.get(name, 'absent')}"
            for name in differing
        ]
        raise ModelError(
            f"the weights do not fit the model in {len(lines)} tensors; first: {'; '.join(lines[:3])}"
        )


def weights_bytes(model: nn.Module) -> bytes:
    """The state of a model as the bytes of a safetensors file; weights that layers share are stored twice."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    )


def _changed_attributes(module: nn.Module, original: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "training"
        and _is_size(value)
        and vars(original).get(name) != value
    }


def _as_tuples(value: Any) -> Any:
    """JSON has lists where the module had tuples."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(item) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _resize(module: nn.Module | None, leaf: str, shape: tuple[int, ...], name: str) -> None:
    old = getattr(module, leaf, None)
    if module is None or not isinstance(old, torch.Tensor):
        raise ArtifactError(f"the factory's model has no tensor {name}, which the recorded structure names")
    if tuple(old.shape) == shape:
        return
    new = torch.zeros(shape, dtype=old.dtype)
    if isinstance(old, torch.nn.Parameter):
        module.register_parameter(leaf, torch.nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        module.register_buffer(leaf, new)
