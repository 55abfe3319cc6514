"""The structure of a changed torch model as data: record, rebuild over the factory, load.

A pruned model is not what its factory builds, so weights alone cannot be loaded. Pickling the module
would run code at load. Instead we record the shape of every parameter and buffer, and every int or
tuple-of-int attribute that a module has otherwise than the factory makes it (`out_channels`, `groups`,
`normalized_shape`, ...); shapes alone do not rebuild grouped convolutions or norms. To load, the
factory builds the original, the record is laid over it, and the weights are loaded strictly.

A module that was replaced by another is described by a small tree of known kinds, such as

    {"kind": "sequential", "layers": [{"kind": "linear", "in_features": 64, ...}, ...]}

so that a record can build layers of torch and nothing else. It is always told against what the factory
builds: of a layer that was replaced twice, or changed after it was replaced, the last state counts.
Parameters that modules of the factory share are shared again; a model that no longer shares them is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from lissom.artifact import Artifact, Factory, Signature
from lissom.errors import ArtifactError, ModelError
from lissom.factories import build, files_of, find
from lissom.logs import log
from lissom.options import ACCEPT_VARIABLE
from lissom.parametrizations import fold, parametrized

STRUCTURE_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_KINDS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "linear": (nn.Linear, ("in_features", "out_features")),
    "conv1d": (nn.Conv1d, (*_CONVOLUTION, "padding_mode")),
    "conv2d": (nn.Conv2d, (*_CONVOLUTION, "padding_mode")),
}
"""Layers that may stand in a record, and the arguments that build them, beside `bias`."""


class Bypass(nn.Module):
    """Gives back what it is given first, in the place of a block that was removed.

    Args:
        places: Length of the tuple that the block gave, of which all but the first are None; 0 when it gave
            a tensor.
    """

    def __init__(self, places: int = 0) -> None:
        super().__init__()
        self.places = places

    def forward(self, *given: Any, **named: Any) -> Any:
        """The first argument; the masks and caches beside it are of no use here."""
        first = given[0] if given else next(iter(named.values()))
        return (first, *[None] * (self.places - 1)) if self.places else first


def _original(factory: Factory) -> nn.Module:
    """The factory's model for its structure alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        return build(factory)


def record(model: nn.Module, factory: Factory) -> dict[str, Any]:
    """What must be laid over the factory's model to get the structure of `model`.

    Raises:
        ModelError: modules were added or removed, or replaced by what cannot be described; or weights that
            the factory's modules share are no longer shared.
    """
    base = _original(factory)
    folded = sorted({*parametrized(base)} - {*parametrized(model)} & {*dict(model.named_modules())})
    fold(base, folded)
    replaced = {name: _described(module) for name, module in _replaced(model, base).items()}
    original, changed = (dict(one.named_modules(remove_duplicate=False)) for one in (base, model))
    difference = [name for name in original.keys() ^ changed.keys() if not _lies_in(name, replaced)]
    difference += [name for name, description in replaced.items() if description is None]
    if difference:
        raise ModelError(
            f"the modules of the model are not those of {factory.source}: {', '.join(sorted(difference)[:5])}"
        )
    _lay(base, replaced)
    _check_shared(model, base)
    attributes = {
        name: differing
        for name, module in base.named_modules()
        if (differing := _changed_attributes(changed[name], module))
    }
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    further = {"replaced": replaced, "folded": folded}
    return {"attributes": attributes, "shapes": shapes} | {name: one for name, one in further.items() if one}


def rebuild(factory: Factory, structure: Mapping[str, Any]) -> nn.Module:
    """The factory's model with the recorded structure; its weights are still to be loaded.

    Raises:
        ArtifactError: the record does not fit the factory's model.
    """
    model = _original(factory)
    fold(model, structure.get("folded", ()))
    _lay(model, structure.get("replaced", {}))
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, attributes in structure["attributes"].items():
        if name not in modules:
            raise ArtifactError(f"the factory's model has no {name}, which the recorded structure names")
        for attribute, value in attributes.items():
            setattr(modules[name], attribute, _as_tuples(value))
    renewed: dict[torch.Tensor, torch.Tensor] = {}
    for name, shape in structure["shapes"].items():
        place, _, leaf = name.rpartition(".")
        _resize(modules.get(place), leaf, tuple(shape), name, renewed)
    return model


def load_model(artifact: Artifact, *, plain: bool = False) -> nn.Module:
    """The torch model of an artifact, in evaluation mode.

    Where the source of its factory has changed since, what it builds now must have the same weights and
    reproduce the stored probe.

    Args:
        artifact: Of the format torch.
        plain: Write computed weights down; see `lissom.parametrizations`.

    Raises:
        ArtifactError: the artifact is not torch, or its factory or weights are not those it was made with.
    """
    factory = factory_of(artifact)
    assert artifact.manifest.factory is not None
    structure = json.loads(artifact.file(STRUCTURE_FILE).read_bytes())
    weights = artifact.file(WEIGHTS_FILE).read_bytes()
    if factory.sha256 == artifact.manifest.factory.sha256:
        model = load_weights(rebuild(factory, structure), weights)
    else:
        model = _load_changed(artifact, factory, structure, weights)
    if plain:
        fold(model)
    return model


def factory_of(artifact: Artifact) -> Factory:
    """The factory of a torch artifact as it is now: with the folder in which it was found, and its hash.

    Raises:
        ArtifactError: the artifact has another format, or the source is gone.
    """
    factory = artifact.manifest.factory
    if artifact.manifest.format != "torch" or factory is None:
        raise ArtifactError(
            f"{artifact.path.name} has the format {artifact.manifest.format}; a torch model was asked for",
            hint="name the folder of the stage before export",
        )
    return find(factory, artifact.path)


def is_accepted(artifact: Artifact) -> bool:
    """True where the source of a torch artifact has changed, and the user goes on with what it builds now."""
    if artifact.manifest.format != "torch" or not os.environ.get(ACCEPT_VARIABLE):
        return False
    made = artifact.manifest.factory
    return made is not None and factory_of(artifact).sha256 != made.sha256


def _load_changed(
    artifact: Artifact, factory: Factory, structure: Mapping[str, Any], weights: bytes
) -> nn.Module:
    """The model of an artifact whose factory has another source than when it was made.

    Raises:
        ArtifactError: the source builds another model now.
    """
    files = ", ".join(sorted({path.name for path in files_of(factory)}))
    changed = f"the source of {factory.source} ({files}) has changed since {artifact.path.name} was made"
    try:
        model = load_weights(rebuild(factory, structure), weights)
        error = _probe_error(artifact, model)
    except Exception as exc:  # whatever the changed source raises, it does not build this model any more
        reason = str(exc) or type(exc).__name__
        raise ArtifactError(
            f"{changed}, and what it builds now does not fit: {reason}",
            hint=f"restore {files}, or run the recipe again",
        ) from exc
    if error is None:
        log.warning("%s; it builds the same model: its weights fit and it reproduces the probe", changed)
    elif os.environ.get(ACCEPT_VARIABLE):
        log.warning("%s; it is accepted, though answers of the probe differ by up to %.3g", changed, error)
    else:
        raise ArtifactError(
            f"{changed}, and the model answers otherwise: outputs of the probe differ by up to {error:.3g}",
            hint=f"restore {files}, run the recipe again, or go on with what it builds now: --accept-source",
        )
    return model


def _probe_error(artifact: Artifact, model: nn.Module) -> float | None:
    """Largest difference from the outputs of the stored probe; None within the tolerance of the manifest."""
    stored = safetensors.torch.load(artifact.file("probe.safetensors").read_bytes())
    signature, tolerance = artifact.manifest.signature, artifact.manifest.tolerance
    answers = _answers(
        model, signature, {spec.name: stored[f"input.{spec.name}"] for spec in signature.inputs}
    )
    differing = []
    for spec in signature.outputs:
        wanted, output = stored[f"output.{spec.name}"], answers[spec.name]
        same = torch.isclose(
            output.double(),
            wanted.double(),
            rtol=tolerance.relative,
            atol=tolerance.absolute,
            equal_nan=True,
        )
        if not same.all():
            differing.append(float((output.double() - wanted.double()).abs().nan_to_num(torch.inf).max()))
    return max(differing, default=None)


def _answers(
    model: nn.Module, signature: Signature, samples: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Answers of shape [samples, ...] to samples of that shape, whatever axes the model has them on.

    Where an output has no axis of the samples, each of them is asked alone, as when the answers were stored.
    """
    batching = signature.batching
    inputs, outputs = (batching.inputs, batching.outputs) if batching else ({}, {})
    shared = [array for name, array in samples.items() if inputs.get(name, 0) is None]
    number = len(next(iter(samples.values())))
    is_alone = None in outputs.values() or any(bool((array != array[:1]).any()) for array in shared)
    parts: dict[str, list[torch.Tensor]] = {spec.name: [] for spec in signature.outputs}
    for start in range(0, number, 1 if is_alone else number):
        rows = {name: array[start : start + 1] if is_alone else array for name, array in samples.items()}
        with torch.inference_mode():
            given = model(*(_placed(rows[spec.name], inputs.get(spec.name, 0)) for spec in signature.inputs))
        found = given if isinstance(given, tuple | list) else (given,)
        for spec, output in zip(signature.outputs, found, strict=True):
            parts[spec.name].append(_samples_first(output, outputs.get(spec.name, 0)))
    return {name: torch.cat(found) for name, found in parts.items()}


def _placed(rows: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Samples where a model has them; the first alone where one serves all."""
    return rows[0] if axis is None else rows.movedim(0, axis).contiguous()


def _samples_first(output: torch.Tensor, axis: int | None) -> torch.Tensor:
    """An answer with its samples on the first axis; that of one sample where it has no axis of them."""
    if axis is None:
        return output if output.shape[:1] == (1,) else output[None]
    return output.movedim(axis, 0)


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


def _resize(
    module: nn.Module | None,
    leaf: str,
    shape: tuple[int, ...],
    name: str,
    renewed: dict[torch.Tensor, torch.Tensor],
) -> None:
    """Give a tensor its recorded shape; `renewed` holds the new tensor of each, for those who share it."""
    old = getattr(module, leaf, None)
    if module is None or not isinstance(old, torch.Tensor):
        raise ArtifactError(f"the factory's model has no tensor {name}, which the recorded structure names")
    if old not in renewed:
        new: torch.Tensor = old
        if tuple(old.shape) != shape:
            new = torch.zeros(shape, dtype=old.dtype)
            if isinstance(old, nn.Parameter):
                new = nn.Parameter(new, requires_grad=old.requires_grad)
        renewed[old] = new
    new = renewed[old]
    if tuple(new.shape) != shape:
        raise ArtifactError(
            f"{name} has the recorded shape {list(shape)}, but the module that shares it {list(new.shape)}"
        )
    if new is not old:
        setattr(module, leaf, new)  # recurrent layers keep a list of their weights, which this keeps right


def _replaced(model: nn.Module, base: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules of another class than the factory's, by name.

    Classes are told by name: a file that is loaded again, and a layer with parametrizations, have new ones.
    """
    original = dict(base.named_modules())
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if name not in original or _lies_in(name, found):
            continue
        if type(module).__qualname__ != type(original[name]).__qualname__:
            found[name] = module
    return found


def _lies_in(name: str, outer: Iterable[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in outer)


def _described(module: nn.Module) -> dict[str, Any] | None:
    """A module as data; None when it is of no known kind."""
    if type(module) is Bypass:
        return {"kind": "bypass", "places": module.places}
    if type(module) is nn.Sequential:
        layers = [_described(layer) for layer in module]
        return None if None in layers else {"kind": "sequential", "layers": layers}
    for kind, (layer, arguments) in _KINDS.items():
        if type(module) is layer:
            values = {name: getattr(module, name) for name in arguments}
            return {"kind": kind, "bias": module.bias is not None} | values
    return None


def _lay(model: nn.Module, replaced: Mapping[str, Any]) -> None:
    """Put what the descriptions say in the place of modules of the factory's model."""
    for name, description in replaced.items():
        try:
            old = model.get_submodule(name)
        except AttributeError as exc:
            raise ArtifactError(
                f"the factory's model has no {name}, which the recorded structure names"
            ) from exc
        dtype = next((parameter.dtype for parameter in old.parameters()), None)
        model.set_submodule(name, _module_from(description).to(dtype))


def _module_from(description: Mapping[str, Any]) -> nn.Module:
    arguments = {name: _as_tuples(value) for name, value in description.items() if name != "kind"}
    kind = description["kind"]
    if kind == "bypass":
        return Bypass(**arguments)
    if kind == "sequential":
        return nn.Sequential(*(_module_from(layer) for layer in description["layers"]))
    if kind not in _KINDS:
        raise ArtifactError(
            f"the recorded structure has a module of the kind {kind!r}",
            hint=f"this version knows bypass, sequential, {', '.join(_KINDS)}",
        )
    return _KINDS[kind][0](**arguments)


def _check_shared(model: nn.Module, base: nn.Module) -> None:
    """Refuse a model in which parameters are apart that the factory's modules share."""
    found = dict(model.named_parameters(remove_duplicate=False))
    first: dict[nn.Parameter, str] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        one = first.setdefault(parameter, name)
        if found.get(name) is not found.get(one):
            raise ModelError(
                f"{one} and {name} were one parameter and are two now, which is not recorded",
                hint="exclude the modules that share it, or build the model without sharing it",
            )
