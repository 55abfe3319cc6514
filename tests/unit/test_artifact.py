"""Artifacts on disk: whole or not at all, and never changed unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.artifacts import tiny_onnx_artifact

import lissom.artifact
from lissom.artifact import (
    MANIFEST_SCHEMA,
    Artifact,
    Draft,
    Manifest,
    Signature,
    TensorSpec,
    Tolerance,
    canonical_json,
    content_id,
    sha256_file,
    sweep_temporary,
    write_atomic,
)
from lissom.errors import ArtifactError, DiskFull

INPUTS = {"stage": "load", "number": 1}
FIELDS: dict[str, Any] = {
    "id": content_id(INPUTS),
    "id_inputs": INPUTS,
    "recipe": "toy",
    "name": "load",
    "stage": "load",
    "format": "onnx",
    "precision": "float32",
    "signature": Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
    ),
    "task": "classification",
    "labels": ("a", "b"),
    "preprocessing": (),
    "parents": (),
    "config": {},
    "seed": 0,
    "data": "digits",
    "splits": {},
    "factory": None,
    "tools": {},
    "made_on": {},
    "num_parameters": 4,
    "notes": {"history": [1.5, None]},
    "tolerance": Tolerance(absolute=1e-4, relative=1e-3),
}


def write(path: Path, **files: bytes) -> Artifact:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Draft(path) as draft:
        for name, content in files.items():
            draft.add(name, content)
        return draft.commit(**FIELDS)


def test_what_was_committed_is_what_is_opened(tmp_path: Path) -> None:
    written = write(tmp_path / "a", model=b"weights", probe=b"answers")
    opened = Artifact.open(tmp_path / "a")
    assert opened.manifest == written.manifest
    assert opened.digest == written.digest == sha256_file(tmp_path / "a" / "manifest.json")
    assert opened.file("model").read_bytes() == b"weights"
    assert (opened.id, opened.name) == (content_id(INPUTS), "load")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "evidence",
        "manifest.json",
        "payload",
    ]


def test_an_artifact_opens_by_its_manifest_and_through_a_link(tmp_path: Path) -> None:
    written = write(tmp_path / "a", model=b"weights")
    (tmp_path / "artifact").symlink_to("a")
    assert Artifact.open(tmp_path / "a" / "manifest.json").digest == written.digest
    assert Artifact.open(tmp_path / "artifact").path == written.path


def test_size_counts_what_a_deployment_needs(tmp_path: Path) -> None:
    files = {"model.onnx": b"12345", "model.json": b"123", "probe.safetensors": b"1234567"}
    assert write(tmp_path / "a", **files).size_bytes == 8


def test_a_file_that_is_not_there_is_an_error_with_the_name_of_the_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifact load \([0-9a-f]{16}\) has no file other"):
        write(tmp_path / "a", model=b"weights").file("other")


def test_equal_content_gives_an_equal_digest(tmp_path: Path) -> None:
    one = write(tmp_path / "here" / "a", model=b"weights", probe=b"answers")
    other = write(tmp_path / "there" / "b", probe=b"answers", model=b"weights")
    assert one.digest == other.digest
    assert write(tmp_path / "c", model=b"weights", probe=b"other").digest != one.digest


def test_nothing_is_visible_before_commit(tmp_path: Path) -> None:
    with Draft(tmp_path / "a") as draft:
        path = draft.add("model", b"weights")
        assert path.read_bytes() == b"weights"
        assert not (tmp_path / "a").exists()
        draft.commit(**FIELDS)
    assert (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_draft_leaves_nothing_when_its_stage_fails(tmp_path: Path) -> None:
    def stage() -> None:
        with Draft(tmp_path / "a") as draft:
            draft.add("model", b"weights")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    assert list(tmp_path.iterdir()) == []


def test_a_draft_leaves_nothing_when_its_manifest_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed"), Draft(tmp_path / "a") as draft:
        draft.commit(**{**FIELDS, "seed": "many"})
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_never_written_over_another(tmp_path: Path) -> None:
    first = write(tmp_path / "a", model=b"first")
    with pytest.raises(OSError, match="a"):
        write(tmp_path / "a", model=b"second")
    assert Artifact.open(tmp_path / "a").digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_swept_and_the_rest_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a", model=b"weights")
    (tmp_path / ".writing-b-1" / "payload").mkdir(parents=True)
    (tmp_path / ".writing-report.json-1").write_text("half")
    assert len(sweep_temporary(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    assert write_atomic(path, b"old") == path

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(lissom.artifact.os, "fsync", full)
        with pytest.raises(DiskFull, match="no space left"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_other_failures_of_the_disk_are_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lissom.artifact.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output") as caught:
        write_atomic(tmp_path / "a", b"new")
    assert not isinstance(caught.value, DiskFull)


def test_evidence_is_added_in_order_and_outside_the_digest(tmp_path: Path) -> None:
    artifact = write(tmp_path / "a", model=b"weights")
    about = {"artifact": {"digest": artifact.digest}}
    artifact.add_evidence({**about, "finished": "2026-02-01T00:00:00", "n": 2}, name="alpha")
    artifact.add_evidence({**about, "finished": "2026-01-01T00:00:00", "n": 1}, name="omega")
    opened = Artifact.open(tmp_path / "a")
    assert opened.digest == artifact.digest
    assert [record["n"] for record in opened.evidence()] == [1, 2]


def test_evidence_of_another_model_shows_that_the_manifest_was_changed(tmp_path: Path) -> None:
    artifact = write(tmp_path / "a", model=b"weights")
    artifact.add_evidence({"artifact": {"digest": "0" * 64}, "finished": "2026-01-01"}, name="one")
    with pytest.raises(ArtifactError, match="was changed after the model was measured"):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"finished": "2026"}',
        '{"finished": "2026", "artifact": {}}',
        '{"finished": 1}',
    ],
)
def test_evidence_that_is_no_record_is_an_error_that_names_the_file(tmp_path: Path, record: str) -> None:
    artifact = write(tmp_path / "a", model=b"weights")
    about = {"artifact": {"digest": artifact.digest}}
    artifact.add_evidence({**about, "finished": "2026-01-01T00:00:00"}, name="sound")
    (tmp_path / "a" / "evidence" / "spoiled.json").write_text(record)
    with pytest.raises(ArtifactError, match=r"spoiled\.json"):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "lissom.manifest/2"}, "has schema 'lissom.manifest/2'"),
        ({"id": "0" * 64}, "is not the hash of what it lists"),
        ({"unknown": 1}, "unknown: Extra inputs are not permitted"),
        ({"labels": "ab"}, "labels"),
        ({"files": [{"path": "/etc/passwd", "sha256": "0", "size_bytes": 1}]}, "outside the artifact"),
        ({"files": [{"path": "payload/../../x", "sha256": "0", "size_bytes": 1}]}, "outside the artifact"),
        ({"files": [{"path": "payload/gone", "sha256": "0", "size_bytes": 1}]}, "is missing"),
        ({"files": [{"path": "payload/model", "sha256": "0", "size_bytes": 1}]}, "has changed"),
    ],
)
def test_a_manifest_that_was_edited_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "a", model=b"weights")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_bytes(canonical_json({**json.loads(manifest.read_bytes()), **change}))
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"schema": '])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "a", model=b"weights")
    (tmp_path / "a" / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        Artifact.open(tmp_path / "a")


def test_a_file_in_the_place_of_a_folder_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    with pytest.raises(ArtifactError, match="no artifact at"):
        Artifact.open(tmp_path / "a")


def test_a_manifest_survives_json_and_cannot_be_changed(tmp_path: Path) -> None:
    manifest = tiny_onnx_artifact(tmp_path / "a").manifest
    document = json.loads(canonical_json(manifest.model_dump(mode="json", by_alias=True)))
    assert document["schema"] == MANIFEST_SCHEMA
    assert Manifest.model_validate(document) == manifest
    with pytest.raises(ValueError, match="frozen"):
        manifest.seed = 1


words = st.text(max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
documents = st.dictionaries(
    words,
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
    ),
    max_size=4,
)


def turned(value: Any) -> Any:
    """The same document with every mapping filled in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(inner) for key, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


@given(documents)
def test_canonical_json_reads_back_and_ends_in_a_newline(document: dict[str, Any]) -> None:
    raw = canonical_json(document)
    assert json.loads(raw) == document
    assert raw.endswith(b"\n")
    assert canonical_json(json.loads(raw)) == raw


@given(documents)
def test_the_order_of_keys_decides_neither_bytes_nor_id(document: dict[str, Any]) -> None:
    assert canonical_json(turned(document)) == canonical_json(document)
    assert content_id(turned(document)) == content_id(document)
    assert content_id(document) == hashlib.sha256(canonical_json(document)).hexdigest()


@given(documents, words, leaves)
def test_a_change_of_one_value_changes_the_id(document: dict[str, Any], key: str, value: Any) -> None:
    changed = {**document, key: [value]}
    assert (content_id(changed) == content_id(document)) == (
        key in document and json.dumps(document[key]) == json.dumps([value])
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"value": value})
