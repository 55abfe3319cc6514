"""Whatever is wrong with a request: one clear message, the documented exit code, no traceback."""

from __future__ import annotations

import errno
import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lissom.artifact
from lissom.cli import main

RECIPE = """
name: bad
data: {source: digits}
model: {source: resnet, kwargs: {widths: [8], blocks: [1]}}
stages:
  - {stage: train, epochs: 1}
  - {stage: export}
  - {stage: quantize}
benchmark: {runtimes: [torch, onnxruntime], num_rounds: 4, round_ms: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str, str], str]:
    """Write the recipe with one thing replaced; gives its path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in RECIPE
        path = tmp_path / "bad.yaml"
        path.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return str(path)

    return write


def run_main(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    exit_code = main(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return exit_code, captured.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 1", "epoch: 1", "stages.0.epoch: unknown key; did you mean epochs or step_epochs?"),
        ("epochs: 1", "epochs: 0", "stages.0.epochs: Input should be greater than or equal to 1, found 0"),
        ("epochs: 1", "epochs: many", "stages.0.epochs: Input should be a valid integer"),
        ("stage: quantize", "stage: quantise", "unknown stage 'quantise'; did you mean quantize?"),
        ("  - {stage: export}\n", "", "put an export stage between them"),
        ("  - {stage: train, epochs: 1}\n", "", "the first stage is train or load"),
        ("{stage: export}", "{stage: export, from: trian}", "did you mean train?"),
        ("name: bad", "nmae: bad", "nmae: unknown key; did you mean name?"),
        ("runtimes: [torch", "runtimes: [troch", "benchmark.runtimes"),
        ("source: digits", "source: digit", "unknown data 'digit'; did you mean digits?"),
        ("source: resnet", "source: resnett", "unknown name 'resnett'; did you mean resnet"),
        ("source: resnet", "source: no.such:thing", "no module 'no.such'"),
        ("source: resnet", "source: lissom.models.cnn:resnit", "resnet"),
        ("blocks: [1]", "blocks: [1], depth: 3", "cannot be built with"),
        ("widths: [8]", "widths: [8], in_channels: 3", "does not take the samples of digits"),
        ("widths: [8]", "widths: [8], num_classes: 3", "3 outputs, but digits has 10 classes"),
        ("source: digits", "source: no.npz", "no data at no.npz"),
        ("stages:", "stages: {", "is not YAML"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_code_2(
    recipe: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    old: str,
    new: str,
    message: str,
) -> None:
    exit_code, errors = run_main(capsys, "run", recipe(old, new), "--out", str(tmp_path / "out"))
    assert exit_code == 2, errors
    assert message in errors
    assert not list(tmp_path.glob("out/[0-9]*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "no recipe at none.yaml"),
        (["runn"], "Did you mean"),
        (["run"], "Missing argument"),
        (["check", "recipes/digits.yaml", "--set", "epochs"], "not of the form a.b=value"),
        (["check", "recipes/digits.yaml", "--set", "stages.tran.epochs=1"], "did you mean train?"),
        (["inspect", "none"], "no artifact at none: it does not exist"),
        (["inspect", "recipes"], "is a folder without manifest.json"),
        (["report", "none"], "no report at none"),
        (["clean", "none"], "no report at none"),
        (
            ["prune", "resnet", "--data", "digits", "--ratio", "2"],
            "ratio: Input should be less than 1, found 2",
        ),
        (["prune", "no/such.py:build", "--data", "digits"], "no file no/such.py"),
        (["quantize", "none.onnx", "--data", "digits"], "no model at none.onnx"),
        (["run", "recipes/digits.yaml", "--allow", "acuracy"], "did you mean accuracy?"),
        (["bench", "recipes"], "without manifest.json"),
    ],
)
def test_a_wrong_request_is_refused_with_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    shutil.copytree("recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    exit_code, errors = run_main(capsys, *words)
    assert exit_code == 2, errors
    assert message in errors


def test_with_json_an_error_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "none.yaml", "--json"]) == 2
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["ok"] is False
    assert document["exit_code"] == 2
    assert document["verb"] == "run"
    assert document["artifact"] is None
    assert document["gates"] == []
    assert document["error"]["type"] == "RecipeError"
    assert document["error"]["hint"]


def test_an_extra_that_is_not_installed_is_code_3_and_named(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.pipeline.preconditions.is_installed", lambda module: module != "onnxruntime")
    exit_code, errors = run_main(capsys, "run", recipe(), "--out", str(tmp_path / "out"))
    assert exit_code == 3
    assert "needs onnxruntime" in errors
    assert "pip install 'lissom[cpu]'" in errors
    assert not list(tmp_path.glob("out/[0-9]*"))


def test_a_runtime_that_is_not_installed_is_code_3_before_any_work(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.runtime.availability.is_installed", lambda module: module != "openvino")
    path = recipe("runtimes: [torch, onnxruntime]", "runtimes: [torch, openvino]")
    exit_code, errors = run_main(capsys, "run", path, "--out", str(tmp_path / "out"))
    assert exit_code == 3
    assert "openvino is not installed" in errors
    assert not list(tmp_path.glob("out/[0-9]*"))


def test_without_a_compiler_inductor_is_absent_and_says_what_to_install(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lissom.runtime.availability.compiler", lambda: None)
    path = recipe("runtimes: [torch, onnxruntime]", "runtimes: [inductor]")
    exit_code, errors = run_main(capsys, "run", path, "--out", str(tmp_path / "out"))
    assert exit_code == 3
    assert "apt-get install g++" in errors


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_code_3_and_leaves_nothing_half_written(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(lissom.artifact.os, "fsync", full)
    else:
        monkeypatch.setattr(
            "lissom.pipeline.workspace.shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0)
        )
    exit_code, errors = run_main(capsys, "run", recipe(), "--out", str(tmp_path / "out"))
    assert exit_code == 3, errors
    assert "no space left" in errors or "0 MB" in errors
    out = tmp_path / "out"
    left = {path.name.partition("-")[0] for path in out.iterdir()} if out.exists() else set()
    assert left <= {".lock", "logs", ".training"}  # what was learnt is kept, no artifact is


def test_our_own_bug_is_code_70_and_asks_for_debug(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Raised by lissom's own line: an error in a function of this file would be one in the code of a user.
    monkeypatch.setattr("lissom.pipeline.runner.plan_stages", operator.truediv)
    exit_code, errors = run_main(capsys, "run", recipe(), "--out", str(tmp_path / "out"))
    assert exit_code == 70
    assert "a bug in lissom: TypeError" in errors
    assert "--debug" in errors


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("flip a payload byte", "has changed"),
        ("cut the payload", "has changed"),
        ("remove a file", "is missing"),
        ("edit the labels", "was changed after the model was measured"),
        ("edit the id", "is not the hash of what it lists"),
        ("break the manifest", "is not JSON"),
        ("newer schema", "schema"),
        ("escape the folder", "outside the artifact"),
    ],
)
def test_a_damaged_artifact_is_refused_with_code_2(
    small_run: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: str, message: str
) -> None:
    path = tmp_path / "artifact"
    shutil.copytree(small_run.artifact.path, path)
    spoil(path, damage)
    exit_code, errors = run_main(capsys, "inspect", str(path))
    assert exit_code == 2
    assert message in errors


def spoil(path: Path, damage: str) -> None:
    """Damage an artifact in one way."""
    manifest, model = path / "manifest.json", path / "payload" / "model.onnx"
    document = json.loads(manifest.read_bytes())
    content = bytearray(model.read_bytes())
    if damage == "flip a payload byte":
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif damage == "cut the payload":
        model.write_bytes(content[: len(content) // 2])
    elif damage == "remove a file":
        model.unlink()
    elif damage == "edit the labels":
        document["labels"] = document["labels"][::-1]
    elif damage == "edit the id":
        document["id"] = "0" * 64
    elif damage == "newer schema":
        document["schema"] = "lissom.manifest/9"
    elif damage == "escape the folder":
        document["files"][0]["path"] = "../../secret"
    if damage == "break the manifest":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    elif damage.split()[0] in ("edit", "newer", "escape"):
        manifest.write_text(json.dumps(document))


def test_a_damaged_stage_stops_a_rerun_instead_of_being_used(
    small_run: Any, small_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.out, folder, symlinks=True)
    weights = next(folder.glob("*-train-*")) / "payload" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    exit_code, errors = run_main(capsys, "run", str(small_recipe), "--out", str(folder))
    assert exit_code == 2
    assert "has changed" in errors
    assert "rm -r" in errors


def test_data_that_do_not_hold_together_are_refused(
    recipe: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    labels = np.arange(40) % 4
    split = np.repeat(["train", "calibrate", "select", "report"], [20, 8, 6, 6])
    spoiled = images.copy()
    spoiled[3, 0, 0, 0] = np.nan
    cases = {
        "lengths": ({"image": images, "y": labels[:-1]}, "arrays differ in length"),
        "split": (
            {"image": images, "y": labels, "split": np.where(split == "train", "tran", split)},
            "unknown split",
        ),
        "empty": ({"image": images[:0], "y": labels[:0]}, "holds no samples"),
        "nan": ({"image": spoiled, "y": labels, "split": split}, "NaN"),
        "object": ({"image": np.array([{}, {}], dtype=object)}, "cannot be read as .npz"),
        "few": (
            {"image": images, "y": labels, "split": np.where(split == "calibrate", "train", split)},
            "calibrate",
        ),
    }
    for name, (arrays, message) in cases.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        text = recipe("source: digits", f"source: {path}")
        exit_code, errors = run_main(capsys, "run", text, "--out", str(tmp_path / name))
        assert exit_code == 2, (name, errors)
        assert message in errors, name


@pytest.mark.parametrize("verb", ["run", "train", "export", "quantize", "prune"])
@pytest.mark.parametrize(("named", "hint"), [(True, "name every split: "), (False, "give more samples")])
def test_labelled_data_without_a_report_split_are_refused_before_any_work(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    named: bool,
    hint: str,
) -> None:
    arrays = {
        "image": np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32),
        "y": np.arange(40) % 4,
    }
    split = np.array(["train", "train", "calibrate", "select"])[np.arange(40) // 4 % 4]
    if named:
        arrays["split"] = split
    else:
        names = iter(split)
        monkeypatch.setattr("lissom.models.data.split_of", lambda digest: next(names))
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    words = (
        [recipe("source: digits", f"source: {path}")] if verb == "run" else ["resnet", "--data", str(path)]
    )
    exit_code, errors = run_main(capsys, verb, *words, "--out", str(tmp_path / "out"))
    assert exit_code == 2, errors
    assert f"{path}: the report split is empty, but the recipe needs it" in errors
    assert hint in errors
    assert not list(tmp_path.glob("out/[0-9]*"))


@pytest.mark.parametrize("place", ["/proc/run", "too long", "read-only", "a file"])
def test_a_folder_that_cannot_hold_a_run_is_code_2_and_another_is_asked_for(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    out = {"/proc/run": place, "too long": str(tmp_path / ("long" * 100)), "a file": recipe()}
    if place == "read-only":
        fail_to_open(monkeypatch, OSError(errno.EROFS, "Read-only file system"))
    folder = out.get(place, str(tmp_path / "out"))
    exit_code, errors = run_main(capsys, "run", recipe(), "--out", folder)
    assert exit_code == 2, errors
    assert f"{folder} cannot be used for a run: " in errors
    assert "name another with --out" in errors


def test_a_disk_without_room_for_the_folder_is_code_3(
    recipe: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = recipe()
    fail_to_open(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    exit_code, errors = run_main(capsys, "run", path, "--out", str(tmp_path / "out"))
    assert exit_code == 3, errors
    assert "no space left" in errors
    assert "name another with --out" in errors


def fail_to_open(monkeypatch: pytest.MonkeyPatch, problem: OSError) -> None:
    """Make the folder of a run fail where it is locked."""
    whole = Path.open

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == ".lock":
            raise problem
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)
