"""The verb that makes a project of artifacts, which serves them wherever it is copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lissom.artifact import Artifact
    from lissom.serve.packaging import Package, Plan


def package(
    artifacts: Sequence[str | Path | Artifact],
    out: str | Path,
    *,
    name: str | None = None,
    keys: str | Path | None = None,
    data: str | Path | None = None,
    build: bool = False,
) -> Package:
    """Write a folder that serves artifacts by itself: a BentoML project with a Dockerfile.

    Args:
        artifacts: Artifacts or `.onnx` files, or NAME=PATH for those that shall have another name.
        out: Folder that is written, whole or not at all; it must not be there, or be empty.
        name: Of the bento and the image; default: the name of the only model, else that of the folder.
        keys: File of API keys whose hashes go along.
        data: DATA with which `.onnx` files are loaded; default: made inputs.
        build: Also build a bento, in BentoML's own store.

    Raises:
        RequestError: an artifact, the folder, the name or the keys cannot be used.
        MachineError: no runtime for an artifact is here, whose version could be named; the disk is full.
        LissomError: BentoML could not build it.
    """
    from lissom.serve import packaging

    found = packaging.write(plan_package(artifacts, out, name=name, keys=keys, data=data), Path(out))
    return packaging.build(found) if build else found


def plan_package(
    artifacts: Sequence[str | Path | Artifact],
    out: str | Path,
    *,
    name: str | None = None,
    keys: str | Path | None = None,
    data: str | Path | None = None,
) -> Plan:
    """What `package` would write; its arguments.

    Raises:
        LissomError: as `package`.
    """
    from lissom.serve import packaging
    from lissom.verbs.files import servable

    only = [name] if name is not None and len(artifacts) == 1 else None
    folders = servable(artifacts, data=data, names=only)
    return packaging.plan(folders, Path(out), name=name, keys=Path(keys) if keys is not None else None)
