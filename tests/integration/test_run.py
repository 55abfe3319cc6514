"""The whole chain on real input: artifacts, cache, resume after SIGKILL, gates, pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.conftest import SMALL

import lissom
from lissom.artifact import TEACHERS_NAME, Artifact
from lissom.pipeline import clean, plan_stages
from lissom.report.files import read_report

STAGES = [stage.get("name", stage["stage"]) for stage in SMALL["stages"]]


def stage_folders(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if re.fullmatch(r"\d\d-[\w-]+-[0-9a-f]{16}", path.name)
    )


def test_a_run_leaves_every_stage_the_report_and_the_link(small_run: Any) -> None:
    folder = small_run.out
    assert [name.split("-")[1] for name in stage_folders(folder)] == STAGES
    assert {"report.json", "report.html", "report.md", "artifact"} <= {path.name for path in folder.iterdir()}
    assert (folder / "artifact").is_symlink()
    assert (folder / "artifact").resolve().name in stage_folders(folder)
    for name in stage_folders(folder):
        assert sorted(path.name for path in (folder / name).iterdir()) == [
            "evidence",
            "manifest.json",
            "payload",
        ]
    assert not list(folder.glob(".writing-*"))


def test_every_gate_is_judged_and_the_small_model_is_smaller(small_run: Any) -> None:
    states = {gate.name: gate.state for gate in small_run.report.gates}
    assert set(states) == {"reload", "parity", "accuracy", "not-slower", "precision", "splits"}
    assert "fail" not in states.values(), small_run.report.gates
    assert small_run.report.verdict.size_ratio > 2
    assert small_run.ok


def test_the_shipped_schemas_describe_what_is_written(small_run: Any) -> None:
    schemas = Path(lissom.__file__).parent / "schemas"
    report = json.loads((small_run.out / "report.json").read_bytes())
    jsonschema.validate(report, json.loads((schemas / "report.json").read_bytes()))
    manifest = json.loads((small_run.out / "artifact" / "manifest.json").read_bytes())
    jsonschema.validate(manifest, json.loads((schemas / "manifest.json").read_bytes()))


def test_a_cached_run_makes_nothing_and_chooses_the_same(
    small_run: Any, small_recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_run.out, folder, symlinks=True)
    before = times_of(folder)
    again = lissom.run(small_recipe, out=folder)
    assert list(again.reused) == STAGES
    assert again.artifact.id == small_run.artifact.id
    assert times_of(folder) == before


def times_of(folder: Path) -> dict[Path, int]:
    """When each manifest and each record of evidence was written."""
    files = [*folder.rglob("manifest.json"), *folder.glob("*/evidence/*")]
    return {file: file.stat().st_mtime_ns for file in files}


def test_a_changed_stage_is_made_again_with_all_that_follow(small_run: Any, small_recipe: Path) -> None:
    data = lissom.load_data("digits")
    before = plan_stages(lissom.Recipe.from_file(small_recipe), data)
    after = plan_stages(lissom.Recipe.from_file(small_recipe, ["stages.distill.epochs=9"]), data)
    same = {stage.config.name for stage, other in zip(before, after, strict=True) if stage.id == other.id}
    assert same == {"train", "original", "prune"}


@pytest.mark.parametrize("moment", ["while training", "after pruning", "while quantizing", "while measuring"])
def test_a_run_killed_at_any_moment_goes_on_and_ends_the_same(
    small_run: Any, small_recipe: Path, tmp_path: Path, moment: str
) -> None:
    folder = tmp_path / "killed"
    kept = {"while training": 0, "after pruning": 3, "while quantizing": 5, "while measuring": 6}[moment]
    folder.mkdir()
    for name in stage_folders(small_run.out)[:kept]:
        shutil.copytree(small_run.out / name, folder / name)
        shutil.rmtree(folder / name / "evidence")
    kill_when_working(small_recipe, folder, at_least=kept, training=kept < 5)
    unfinished = stage_folders(folder)
    result = lissom.run(small_recipe, out=folder)
    assert [name.split("-", 1)[1] for name in unfinished] == [
        f"{artifact}-{digest[:16]}" for artifact, digest in stage_ids(small_run)[: len(unfinished)]
    ]
    assert list(result.reused) == STAGES[: len(unfinished)]
    assert stage_folders(folder) == stage_folders(small_run.out)
    assert result.artifact.id == small_run.artifact.id
    assert not list(folder.glob(".writing-*"))


def stage_ids(result: Any) -> list[tuple[str, str]]:
    return [(row.name, row.id) for row in result.report.stages]


def wait_for(process: subprocess.Popen[Any], folder: Path, pattern: str) -> None:
    """Wait until a run has made this in its folder."""
    deadline = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert process.poll() is None, "the run ended at once"
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.01)


def kill_when_working(recipe: Path, folder: Path, *, at_least: int, training: bool) -> None:
    """Start a run, wait until it trains, or else holds the folder and computes, then SIGKILL it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lissom", "run", str(recipe), "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(process, folder, ".training-*" if training else ".lock")
        time.sleep(0.0 if training else 1.0)
        assert process.poll() is None, "the run ended before it could be killed"
        assert not (folder / "report.json").exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(stage_folders(folder)) >= at_least


def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(small_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    process = subprocess.Popen(
        [sys.executable, "-m", "lissom", "run", str(small_recipe), "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(process, folder, ".training-*")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not list(folder.glob(".writing-*"))


def test_ctrl_c_inside_an_exec_of_text_ends_with_130_too(tmp_path: Path) -> None:
    factory = tmp_path / "own.py"
    factory.write_text("def build():\n    exec('raise KeyboardInterrupt')\n")
    command = [sys.executable, "-m", "lissom", "train", f"{factory}:build", "--data", "digits"]
    command += ["--out", str(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 130, process.stderr
    assert "interrupted" in process.stderr


def test_two_runs_cannot_share_a_folder(small_recipe: Path, tmp_path: Path) -> None:
    from lissom.pipeline import locked

    with locked(tmp_path), pytest.raises(lissom.LissomError, match="another lissom"):
        lissom.run(small_recipe, out=tmp_path)


def test_a_pruned_model_reloads_in_another_process_to_the_stored_probe(small_run: Any) -> None:
    code = (
        "import sys, numpy as np\n"
        "from lissom import Artifact, open_runtime\n"
        "from lissom.runtime.probe import load_probe\n"
        "artifact = Artifact.open(sys.argv[1])\n"
        "inputs, wanted = load_probe(artifact)\n"
        "found = open_runtime(artifact, 'torch').infer(inputs)\n"
        "print(max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted))\n"
    )
    path = next(small_run.out.glob("*-distill-*"))
    process = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert float(process.stdout) < 1e-4


def test_stored_predictions_are_those_that_the_runtime_gives(small_run: Any) -> None:
    import safetensors.numpy

    report = read_report(small_run.out)
    artifact = Artifact.open(small_run.out / "artifact")
    stored = safetensors.numpy.load(artifact.file("predictions.safetensors").read_bytes())
    assert stored["labels"].tolist() == list(report.predictions.labels)
    measured = report.predictions.arms[f"{artifact.name}/onnxruntime"]
    assert stored["outputs"].argmax(axis=1).tolist() == list(measured)


def test_clean_removes_what_the_report_does_not_refer_to(small_run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_run.out, folder, symlinks=True)
    old = folder / "02-prune-0123456789abcdef"
    shutil.copytree(folder / stage_folders(folder)[0], old)
    half = folder / ".writing-03-distill-1"
    half.mkdir()
    assert set(clean(folder, dry_run=True)) == {old, half, folder / TEACHERS_NAME}
    assert old.exists()
    clean(folder)
    assert not old.exists()
    assert not half.exists()
    assert len(stage_folders(folder)) == len(STAGES)
