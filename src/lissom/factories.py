"""From the factory of a manifest to the model that it builds, wherever lissom is called.

A source such as `models.py:make` is relative to the folder in which the artifact was made. That folder is
mostly the one that the run lies in, so it is looked for above the artifact first.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from lissom.adaptation import adapt, initialize, is_uninitialized, unwrap
from lissom.artifact import Factory
from lissom.causes import told
from lissom.errors import ArtifactError, ModelError
from lissom.registry import MODELS, lies_in, resolve, source_files, source_sha256


def build(factory: Factory) -> nn.Module:
    """Call the factory.

    Raises:
        ModelError: it refuses the keyword arguments, or does not give a module.
    """
    function = resolve(factory.source, known=MODELS, folder=factory.folder)
    try:
        model = function(**factory.kwargs)
    except Exception as exc:  # the user's code may raise anything; what it says is what matters
        raise ModelError(f"{factory.source} cannot be built with {factory.kwargs}:{told(exc)}") from exc
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{factory.source} gave a {type(model).__name__}, not a torch.nn.Module")
    model = adapt(
        unwrap(model),
        factory.arguments,
        factory.outputs,
        factory.computes_in,
        samples_per_call=factory.samples_per_call,
    )
    if factory.shaped_by and is_uninitialized(model):
        initialize(model, factory.shaped_by)
    return model


def find(factory: Factory, artifact: Path) -> Factory:
    """The factory as it is now: with the folder in which its source was found, and its hash.

    Of several folders the first counts whose source has not changed.

    Args:
        factory: As the manifest has it.
        artifact: Folder of the artifact.

    Raises:
        ArtifactError: the source is gone.
    """
    found = [_with_folder(factory, folder) for folder in _folders(artifact, factory)]
    try:
        candidates = found or [_with_folder(factory, "")]
    except ModelError as exc:
        raise ArtifactError(
            f"{artifact.name} is built by {factory.source}, which lies neither in a folder above it nor in "
            f"{Path.cwd()}",
            hint="restore it, or go on with an ONNX artifact of the run, which needs no code",
        ) from exc
    return next((one for one in candidates if one.sha256 == factory.sha256), candidates[0])


def locate(factory: Factory, artifact: Path) -> Factory:
    """The factory with the folder of its source as the manifest of a new artifact keeps it.

    Nothing is kept where looking upwards from the artifact finds it, so that both can be moved together.
    """
    home = Path(factory.folder or ".").absolute()
    place = artifact.absolute()
    if factory.source in MODELS or not lies_in(home, factory.source, known=MODELS):
        return factory.model_copy(update={"folder": ""})
    above = next((one for one in place.parents if lies_in(one, factory.source, known=MODELS)), None)
    folder = "" if above == home else os.path.relpath(home, place)
    return factory.model_copy(update={"folder": folder})


def files_of(factory: Factory) -> list[Path]:
    """The files that define a factory."""
    return source_files(factory.source, known=MODELS, folder=factory.folder)


def _folders(artifact: Path, factory: Factory) -> list[Path]:
    """Folders that have the source of a factory: where it was, above the artifact, the working directory."""
    if factory.source in MODELS:
        return []
    kept = [Path(os.path.normpath(artifact / factory.folder))] if factory.folder else []
    places = dict.fromkeys([*kept, *artifact.parents, Path.cwd()])
    return [place for place in places if lies_in(place, factory.source, known=MODELS)]


def _with_folder(factory: Factory, folder: str | Path) -> Factory:
    digest = source_sha256(factory.source, known=MODELS, folder=folder)
    return factory.model_copy(update={"folder": str(folder), "sha256": digest})
