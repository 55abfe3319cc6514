"""Every gate can fail: the run ends with 1, says which, and still writes the candidate and the full table."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
import yaml
from tests.conftest import SMALL

import lissom
from lissom.artifact import Artifact, canonical_json
from lissom.cli import main
from lissom.report.files import read_report

FIRST = {**SMALL, "stages": SMALL["stages"][:2], "ship": "last"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and folder of a run that trains and exports."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = folder / "exported.yaml"
    recipe.write_text(yaml.safe_dump(FIRST, sort_keys=False))
    lissom.run(recipe, out=folder / "run")
    return recipe, folder / "run"


@pytest.fixture
def copy_of(exported: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "run"
    shutil.copytree(exported[1], folder, symlinks=True)
    return exported[0], folder


def rewrite(artifact: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a payload file, bring the manifest's hash into line, and forget what was measured."""
    file = artifact / "payload" / name
    file.write_bytes(change(file.read_bytes()))
    manifest = json.loads((artifact / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"].endswith(name):
            content = file.read_bytes()
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (artifact / "manifest.json").write_bytes(canonical_json(manifest))
    shutil.rmtree(artifact / "evidence")


def edit_evidence(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for file in (artifact / "evidence").iterdir():
        record = json.loads(file.read_bytes())
        change(record)
        file.write_bytes(canonical_json(record))


def gate_states(recipe: Path, folder: Path, *words: str) -> tuple[int, dict[str, str]]:
    exit_code = main(["run", str(recipe), "--out", str(folder), *words])
    report = read_report(folder)
    assert (folder / "artifact" / "manifest.json").exists()
    assert (folder / "report.html").exists()
    assert len(report.arms) == sum(len(record["runtimes"]) for record in evidence_of(folder))
    return exit_code, {gate.name: gate.state for gate in report.gates}


def evidence_of(folder: Path) -> list[dict[str, Any]]:
    """The last measurement of every stage; the chosen one has a record of the pair beside it."""
    records = [Artifact.open(folder / row.path).evidence() for row in read_report(folder).stages]
    return [[record for record in kept if "runtimes" in record][-1] for kept in records]


def test_nothing_fails_where_nothing_is_wrong(copy_of: tuple[Path, Path]) -> None:
    exit_code, states = gate_states(*copy_of)
    assert exit_code == 0
    assert "fail" not in states.values()


def test_reload_fails_when_a_model_does_not_reproduce_its_probe(copy_of: tuple[Path, Path]) -> None:
    def shift(content: bytes) -> bytes:
        tensors = safetensors.numpy.load(content)
        return safetensors.numpy.save(
            {k: v + (0.5 if k.startswith("output") else 0) for k, v in tensors.items()}
        )

    rewrite(next(copy_of[1].glob("*-original-*")), "probe.safetensors", shift)
    exit_code, states = gate_states(*copy_of)
    assert exit_code == 1
    assert [name for name, state in states.items() if state == "fail"] == ["reload"]


def test_parity_fails_when_the_export_computes_something_else(copy_of: tuple[Path, Path]) -> None:
    def disturb(content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        array = onnx.numpy_helper.to_array(weight) * np.float32(1.05)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        return bytes(model.SerializeToString())

    rewrite(next(copy_of[1].glob("*-original-*")), "model.onnx", disturb)
    exit_code, states = gate_states(*copy_of)
    assert exit_code == 1
    assert states["parity"] == "fail"


def test_accuracy_fails_when_answers_are_lost(
    copy_of: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load(copy_of[0].read_text())
    recipe["stages"].append({"stage": "prune", "from": "train", "ratio": 0.75})
    recipe["gates"]["accuracy"]["max_drop"] = 0.01
    path = copy_of[1].parent / "pruned.yaml"
    path.write_text(yaml.safe_dump(recipe))
    exit_code, states = gate_states(path, copy_of[1])
    assert exit_code == 1
    assert states["accuracy"] == "fail"
    assert "FAIL" in capsys.readouterr().out
    report = read_report(copy_of[1])
    assert report.verdict.ok is False
    assert report.verdict.artifact == "prune"
    assert gate_states(path, copy_of[1], "--set", "ship=fastest")[0] == 1, "the original is no way out"
    assert gate_states(path, copy_of[1], "--allow", "accuracy", "--allow", "not-slower")[0] == 0
    assert "failed but allowed" in read_report(copy_of[1]).verdict.sentence


def test_not_slower_fails_when_the_result_is_surely_slower(copy_of: tuple[Path, Path]) -> None:
    recipe = yaml.safe_load(copy_of[0].read_text())
    recipe["gates"]["not-slower"]["margin"] = 0.02
    path = copy_of[1].parent / "strict.yaml"
    path.write_text(yaml.safe_dump(recipe))

    def slow_down(record: dict[str, Any]) -> None:
        for figures in record["runtimes"].values():
            for name in {"rounds_ms", "control_ms"} & {*figures}:
                figures[name] = [[100 * sample for sample in samples] for samples in figures[name]]

    edit_evidence(next(copy_of[1].glob("*-original-*")), slow_down)
    exit_code, states = gate_states(path, copy_of[1])
    assert exit_code == 1
    assert [name for name, state in states.items() if state == "fail"] == ["not-slower"]


def test_precision_fails_when_the_engine_computes_in_less(copy_of: tuple[Path, Path]) -> None:
    def in_bfloat16(record: dict[str, Any]) -> None:
        for figures in record["runtimes"].values():
            figures["executed"] = {"bfloat16": 3, "float32": 1}

    edit_evidence(next(copy_of[1].glob("*-original-*")), in_bfloat16)
    exit_code, states = gate_states(*copy_of)
    assert exit_code == 1
    assert [name for name, state in states.items() if state == "fail"] == ["precision"]


def test_splits_fails_when_a_sample_stands_in_two(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images[:600, None].astype(np.float32), bunch.target[:600]
    split = np.array(["train", "train", "train", "calibrate", "select", "report"] * 100)
    images[split == "report"] = images[split == "train"][:100]
    labels[split == "report"] = labels[split == "train"][:100]
    np.savez(tmp_path / "leaky.npz", image=images, y=labels, split=split)
    recipe = {**FIRST, "data": {"source": str(tmp_path / "leaky.npz")}}
    path = tmp_path / "leaky.yaml"
    path.write_text(yaml.safe_dump(recipe))
    exit_code, states = gate_states(path, tmp_path / "run", "--set", "stages.train.epochs=1")
    assert exit_code == 1
    assert states["splits"] == "fail"


def test_a_model_that_is_trained_further_is_compared_as_it_was_trained(tmp_path: Path) -> None:
    stages = [{"stage": "load"}, {"stage": "train", "epochs": 1}, {"stage": "export"}]
    recipe = lissom.Recipe.from_document({**FIRST, "stages": stages})
    report = lissom.run(recipe, out=tmp_path / "run").report
    assert report.verdict.reference == "train"
    accuracy = next(gate for gate in report.gates if gate.name == "accuracy")
    assert accuracy.measured.startswith("+0.00 points")


def test_an_onnx_file_from_elsewhere_without_labels_is_quantized(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    source = next(exported[1].glob("*-original-*")) / "payload" / "model.onnx"
    images = lissom.load_data("digits").tensors("train")["image"][:64]
    np.savez(tmp_path / "images.npz", image=images)
    result = lissom.quantize(source, tmp_path / "images.npz", out=tmp_path / "run", allow=["not-slower"])
    states = {gate.name: gate.state for gate in result.report.gates}
    assert states["accuracy"] == "skipped"
    assert states["parity"] == "pass"
    assert result.artifact.manifest.precision == "int8"
