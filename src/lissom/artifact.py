"""An artifact: a directory that holds one model in one format beside everything known about it.

    <NN>-<stage name>-<id16>/
        manifest.json     written once, last; its sha256 is the artifact's digest
        payload/          the model's files, each listed in the manifest with sha256 and size
        evidence/         what was measured later, outside the digest

An artifact is written under a temporary name, synced to disk and renamed, so that a process that is
killed leaves either a whole artifact or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lissom.errors import ArtifactError, DiskFull, is_disk_full

MANIFEST_SCHEMA = "lissom.manifest/1"
MANIFEST_NAME = "manifest.json"
PAYLOAD_NAME = "payload"
EVIDENCE_NAME = "evidence"
TEMPORARY_PREFIX = ".writing-"
WORK_PREFIX = ".training-"
"""A folder of checkpoints, from which a killed run goes on."""
MADE_PREFIX = "made-inputs-"
"""A file of inputs that were made by the signature of a model, in the folder of a run."""
TEACHERS_NAME = ".teachers"
"""A folder of what teachers answered, in the folder of a run."""
ID_LENGTH = 16

Dim = int | str
"""A fixed size, or the name of a dimension that may vary."""


class Frozen(BaseModel):
    """A pydantic model that cannot change and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TensorSpec(Frozen):
    """Name, dtype and shape of one input or output."""

    name: str = Field(description="Name of the tensor, the same on every runtime.")
    dtype: str = Field(description="NumPy name of the element type, such as float32.")
    shape: tuple[Dim, ...] = Field(description="Sizes; a string names a dimension that may vary.")


class Batching(Frozen):
    """Where the samples lie in the tensors, found by running rows alone, together and in another order."""

    inputs: dict[str, int | None] = Field(
        description="Axis of the samples of each input; null where it has none and serves all samples."
    )
    outputs: dict[str, int | None] = Field(
        description="Axis of the samples of each output; null where it has none."
    )
    joins: bool = Field(
        description="True when every sample has the same answer alone and beside others, "
        "so that requests may be computed together."
    )
    size: int | None = Field(
        None, description="Samples of each call where the model takes no other number; null for any."
    )
    reason: str = Field("", description="Why requests are not joined; empty where they are.")
    states: dict[str, str | None] = Field(
        default_factory=dict,
        description="Inputs that hold a recurrent state, and the output with its next value or null; "
        "zeros are given where a caller sends none.",
    )


class Signature(Frozen):
    """What a model takes and gives, after preprocessing."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: Batching | None = Field(
        None, description="Where the samples lie; null in artifacts that were made before it was proven."
    )


class InputRange(Frozen):
    """What the calibration samples of one raw input looked like, before preprocessing."""

    input: str = Field(description="Name of the input.")
    low: float = Field(description="Smallest finite value.")
    high: float = Field(description="Largest finite value.")
    mean: float = Field(description="Mean of the finite values.")
    std: float = Field(description="Standard deviation of the finite values.")
    nonfinite: bool = Field(
        description="True when samples hold NaN or infinity, such as a mask; such values are then served."
    )


class PreprocessingStep(Frozen):
    """One step from raw input to tensor, applied in order: `output = (input - mean) / std`."""

    op: Literal["normalize"] = "normalize"
    input: str = Field(description="Name of the input that the step applies to.")
    mean: tuple[float, ...] = Field(description="Subtracted; one value, or one a channel (axis 1).")
    std: tuple[float, ...] = Field(description="Divided by; one value, or one a channel (axis 1).")


class ParentRef(Frozen):
    """Where an artifact came from."""

    role: str = Field(description="`input`, `teacher`, or `teacher-1` and so on where several teach.")
    name: str = Field(description="Name of the parent's stage.")
    id: str
    digest: str


class FileEntry(Frozen):
    """One file of the payload."""

    path: str = Field(description="Relative to the artifact, with forward slashes.")
    sha256: str
    size_bytes: int


class Factory(Frozen):
    """The function that builds the architecture before its structure was changed."""

    source: str = Field(description="Built-in name, `package.module:function` or `path/file.py:function`.")
    kwargs: dict[str, Any] = Field(description="Keyword arguments of the call.")
    sha256: str = Field(description="Hash of the file that defines the function.")
    folder: str = Field(
        "",
        description="Folder in which a relative source lies, relative to the artifact; empty where it is the "
        "first above the artifact that has it.",
    )
    arguments: tuple[str, ...] = Field(
        (), description="Keyword of the forward for each input; empty where they are handed over in order."
    )
    outputs: tuple[str, ...] = Field(
        (), description="Outputs of the forward that are kept, by name; empty where it gives no names."
    )
    computes_in: str = Field(
        "",
        description="Type into which floats are cast; empty where the model takes them as they are.",
    )
    shaped_by: tuple[TensorSpec, ...] = Field(
        (), description="Inputs from which lazy layers take their shapes; empty where there are none."
    )
    samples_per_call: int = Field(
        0, ge=0, description="Samples of each call where the forward takes no other number; 0 for any."
    )


class Tolerance(Frozen):
    """How far a reloaded model may be from its probe on another machine."""

    absolute: float
    relative: float


class Manifest(Frozen):
    """Everything known about an artifact when it was made."""

    schema_: Literal["lissom.manifest/1"] = Field("lissom.manifest/1", alias="schema")
    id: str = Field(description="sha256 of everything that decides the artifact's content.")
    id_inputs: dict[str, Any] = Field(description="What `id` is the hash of.")
    recipe: str = Field(description="Name of the recipe; also the name under which the model is served.")
    name: str = Field(description="Name of the stage that made it.")
    stage: str = Field(description="Kind of that stage.")
    format: str = Field(description="torch, onnx, openvino, aotinductor or tensorrt.")
    precision: str = Field(description="Precision that was asked for, such as float32 or int8.")
    signature: Signature
    task: str = Field(description="`classification`, or `package.module:factory`.")
    labels: tuple[str, ...] = Field(description="Names of the classes, in the order of the scores.")
    preprocessing: tuple[PreprocessingStep, ...]
    input_ranges: tuple[InputRange, ...] = Field(
        (), description="Of the calibration samples; empty in older artifacts."
    )
    scores: Literal["logits", "probabilities", "log_probabilities", "sigmoids"] = Field(
        "logits", description="What the first output of a classifier holds."
    )
    parents: tuple[ParentRef, ...]
    config: dict[str, Any] = Field(description="Config of the stage.")
    seed: int
    data: str = Field(description="Source of the data.")
    splits: dict[str, str] = Field(description="Hash of each split.")
    factory: Factory | None = Field(description="Absent for formats that need no Python code.")
    tools: dict[str, str] = Field(description="Versions of the libraries that made it.")
    made_on: dict[str, Any] = Field(description="The machine on which it was made and validated.")
    num_parameters: int | None
    foreign: bool = Field(
        False,
        description="True for an ONNX file that another exporter wrote, and for what was made of it: engines "
        "are given such a model in a child process first.",
    )
    notes: dict[str, Any] = Field(description="Figures that the stage itself reports.")
    tolerance: Tolerance = Field(description="For the probe, on another machine.")
    files: tuple[FileEntry, ...]

    def entry(self, name: str) -> FileEntry:
        """The payload file called `name`.

        Raises:
            ArtifactError: there is none.
        """
        for entry in self.files:
            if PurePosixPath(entry.path).name == name:
                return entry
        raise ArtifactError(f"artifact {self.name} ({self.id[:ID_LENGTH]}) has no file {name}")


class Artifact:
    """One model on disk; open it with `Artifact.open`."""

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}, format={self.manifest.format!r})"

    @property
    def id(self) -> str:
        """Hash of everything that decides the content."""
        return self.manifest.id

    @property
    def name(self) -> str:
        """Name of the stage that made it."""
        return self.manifest.name

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that a deployment needs: the model, without probe and predictions."""
        return sum(entry.size_bytes for entry in self.manifest.files if "/model" in f"/{entry.path}")

    def file(self, name: str) -> Path:
        """Path of the payload file called `name`."""
        return self.path / self.manifest.entry(name).path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read an artifact and prove that no file of it has changed.

        Raises:
            ArtifactError: no artifact is there, its schema is unknown, or a hash does not match.
        """
        path = Path(path)
        path = path.parent if path.name == MANIFEST_NAME else path
        raw = _read_manifest(path)
        manifest = _parse_manifest(raw, path)
        artifact = cls(path.resolve(), manifest, hashlib.sha256(raw).hexdigest())
        _verify_id(manifest, path)
        _verify_files(manifest, path)
        for record in artifact.evidence():
            if record["artifact"]["digest"] != artifact.digest:
                raise ArtifactError(
                    f"{path / MANIFEST_NAME} was changed after the model was measured: its sha256 is "
                    f"{artifact.digest[:12]}, the evidence was taken on {record['artifact']['digest'][:12]}",
                    hint="restore the artifact from a copy, or delete the folder and run the recipe again",
                )
        return artifact

    def evidence(self) -> list[dict[str, Any]]:
        """Every record of later measurements, oldest first.

        Raises:
            ArtifactError: a record is not the JSON that lissom writes.
        """
        records = []
        for file in sorted((self.path / EVIDENCE_NAME).glob("*.json")):
            try:
                record = json.loads(file.read_bytes())
                records.append((str(record["finished"]), file.name, record))
                str(record["artifact"]["digest"])
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                raise ArtifactError(f"{file} is not a record of evidence: {exc}", hint=f"rm {file}") from exc
        return [record for _, _, record in sorted(records, key=lambda item: item[:2])]

    def forget_evidence(self, measurement: str, *, but: Path | None = None) -> None:
        """Remove the records of one measurement, all or but one file."""
        for file in (self.path / EVIDENCE_NAME).glob("*.json"):
            if file != but and json.loads(file.read_bytes()).get("measurement") == measurement:
                file.unlink()

    def add_evidence(self, record: Mapping[str, Any], *, name: str) -> Path:
        """Write one record of measurements beside the model; its digest does not change."""
        folder = self.path / EVIDENCE_NAME
        folder.mkdir(exist_ok=True)
        sweep_temporary(folder)
        return write_atomic(folder / f"{name}.json", canonical_json(record))


class Draft:
    """An artifact that is being written; nothing is visible until `commit`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}"
        self._entries: list[FileEntry] = []

    def __enter__(self) -> Self:
        shutil.rmtree(self._temporary, ignore_errors=True)
        (self._temporary / PAYLOAD_NAME).mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, name: str, content: bytes) -> Path:
        """Write one payload file; the path is valid until `commit`."""
        path = self.path_of(name)
        _write_synced(path, content)
        digest = hashlib.sha256(content).hexdigest()
        self._entries.append(FileEntry(path=f"{PAYLOAD_NAME}/{name}", sha256=digest, size_bytes=len(content)))
        return path

    def path_of(self, name: str) -> Path:
        """Where a payload file that was added lies until `commit`."""
        return self._temporary / PAYLOAD_NAME / name

    def commit(self, **fields: Any) -> Artifact:
        """Write the manifest, sync, and give the artifact its name."""
        entries = tuple(sorted(self._entries, key=lambda entry: entry.path))
        manifest = Manifest(files=entries, **fields)
        raw = canonical_json(manifest.model_dump(mode="json", by_alias=True))
        _write_synced(self._temporary / MANIFEST_NAME, raw)
        (self._temporary / EVIDENCE_NAME).mkdir(exist_ok=True)
        _sync_folder(self._temporary / PAYLOAD_NAME)
        _sync_folder(self._temporary)
        self._temporary.rename(self.path)
        _sync_folder(self.path.parent)
        return Artifact(self.path.resolve(), manifest, hashlib.sha256(raw).hexdigest())


def content_id(inputs: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `inputs`.

    >>> content_id({"b": 1, "a": 2}) == content_id({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(inputs)).hexdigest()


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON with sorted keys, so that equal documents have equal bytes."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def write_atomic(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises:
        DiskFull: no space is left; the old file is untouched.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}"
    try:
        _write_synced(temporary, content)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def sweep_temporary(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written in `folder`; returns what was removed."""
    leftovers = list(folder.glob(f"{TEMPORARY_PREFIX}*"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return leftovers


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> bytes:
    try:
        return (path / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
        found = "is a folder without manifest.json" if path.is_dir() else "does not exist"
        found = "is a file" if path.is_file() else found
        raise ArtifactError(
            f"no artifact at {path}: it {found}",
            hint="name a folder such as runs/digits/artifact; lissom run RECIPE makes one",
        ) from exc


def _parse_manifest(raw: bytes, path: Path) -> Manifest:
    try:
        document = json.loads(raw)
        schema = document.get("schema")
    except (ValueError, AttributeError) as exc:
        raise ArtifactError(f"{path / MANIFEST_NAME} is not JSON: {exc}") from exc
    if schema != MANIFEST_SCHEMA:
        raise ArtifactError(
            f"{path / MANIFEST_NAME} has schema {schema!r}; this lissom reads {MANIFEST_SCHEMA!r}",
            hint="install the version of lissom that wrote it, or make the artifact again",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path / MANIFEST_NAME}: {where}: {first['msg']}") from exc


def _verify_id(manifest: Manifest, path: Path) -> None:
    if content_id(manifest.id_inputs) != manifest.id:
        raise ArtifactError(
            f"{path / MANIFEST_NAME}: the id {manifest.id[:ID_LENGTH]} is not the hash of what it lists",
            hint="the manifest was edited; restore it, or delete the folder and run the recipe again",
        )


def _verify_files(manifest: Manifest, path: Path) -> None:
    for entry in manifest.files:
        relative = PurePosixPath(entry.path)
        if relative.is_absolute() or ".." in relative.parts:
            raise ArtifactError(f"{path / MANIFEST_NAME} names a file outside the artifact: {entry.path}")
        file = path / relative
        if not file.is_file():
            raise ArtifactError(f"{file} is missing", hint=_again(path))
        if (found := sha256_file(file)) != entry.sha256:
            raise ArtifactError(
                f"{file} has changed: its sha256 is {found[:12]}, the manifest says {entry.sha256[:12]}",
                hint=_again(path),
            )


def _again(path: Path) -> str:
    return f"rm -r {path} and run the recipe again, or restore the folder from a copy"


def _write_synced(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        if is_disk_full(exc):
            raise DiskFull(
                f"no space left on the disk of {path.parent} ({len(content):,} bytes were to be written)",
                hint="free some space (lissom clean DIR removes what no report refers to) and run again",
            ) from exc
        raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
