"""Every layer computes in int8 alone, and is measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.small import KWARGS, Chain, blobs, data_for, load, make

from lissom import verbs
from lissom.artifact import Artifact
from lissom.cli import main
from lissom.compress.layer_noise import LayerNoise, NoiseStudy, measure, plan, study_of
from lissom.compress.measurements import MEASURED_NAME
from lissom.compress.quantizing.evidence import Figures, Judge
from lissom.compress.quantizing.graph import operator_counts
from lissom.errors import ModelError, RequestError
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import QuantizeConfig
from lissom.report.layer_noise_page import html_from_layer_noise

DATA = data_for("resnet")
Chains = Callable[[str], Chain]


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every model that was judged."""
    found: list[Any] = []
    judge = Judge.__call__

    def watched(self: Judge, model: Any) -> Figures:
        found.append(model)
        return judge(self, model)

    monkeypatch.setattr(Judge, "__call__", watched)
    return found


def study(artifact: Artifact, folder: Path, *, data: Data = DATA, **fields: Any) -> NoiseStudy:
    return study_of(
        artifact, data, QuantizeConfig.model_validate(fields), name=artifact.path.name, folder=folder
    )


def measured(artifact: Artifact, folder: Path, **fields: Any) -> LayerNoise:
    return measure(study(artifact, folder, **fields), progress=NoProgress())


def test_one_layer_at_a_time_computes_in_int8(tmp_path: Path, chain: Chains, judged: list[Any]) -> None:
    found = measured(chain("resnet").exported, tmp_path)
    counts = [operator_counts(model) for model in judged]
    assert len(found.layers) == len(judged) == len({layer.name for layer in found.layers})
    assert all(count["computing_int8"] == 1 for count in counts)
    assert len(judged) == counts[0]["computing"] > 3
    assert {layer.op_type for layer in found.layers} <= {"Conv", "Gemm", "MatMul"}
    assert all(layer.num_weights > 0 for layer in found.layers)


def test_the_noisiest_layer_stands_first_and_figures_are_those_of_the_judge(
    tmp_path: Path, chain: Chains
) -> None:
    asked = study(chain("resnet").exported, tmp_path)
    found = measure(asked, progress=NoProgress())
    ratios = [layer.sqnr_db for layer in found.layers]
    assert ratios == sorted(ratios)
    assert 5 < ratios[0] < ratios[-1] < 200
    worst = found.layers[0]
    figures = asked.judge(asked.quantizer.build(asked.plan, only=worst.name))
    assert (worst.sqnr_db, worst.agreement, worst.score) == figures[:1] + figures[2:4]
    assert worst.drop == pytest.approx(figures.drop)
    assert found.score == asked.judge.score
    assert (found.split, found.num_samples) == ("select", len(DATA.indices["select"]))
    assert found.score_name == "accuracy"


def test_what_was_measured_is_not_measured_again_whatever_is_excluded(
    tmp_path: Path, chain: Chains, judged: list[Any]
) -> None:
    artifact = chain("resnet").exported
    first = measured(artifact, tmp_path)
    number = len(judged)
    assert len(list((tmp_path / MEASURED_NAME).iterdir())) == number
    assert measured(artifact, tmp_path) == first
    worst, *others = first.layers
    assert measured(artifact, tmp_path, exclude=[worst.name]).layers == tuple(others)
    assert len(judged) == number


def test_a_run_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, chain: Chains, judged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = chain("resnet").exported
    unbroken = measured(artifact, tmp_path / "whole")
    judged.clear()
    watched = Judge.__call__

    def failing(self: Judge, model: Any) -> Figures:
        if len(judged) == 2:
            raise KeyboardInterrupt
        return watched(self, model)

    monkeypatch.setattr(Judge, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        measured(artifact, tmp_path / "cut")
    monkeypatch.setattr(Judge, "__call__", watched)
    assert measured(artifact, tmp_path / "cut") == unbroken
    assert len(judged) == len(unbroken.layers)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"figures": [1]}', b'{"figures": {"score": 1}}'])
def test_a_damaged_measurement_is_made_again(
    tmp_path: Path, chain: Chains, judged: list[Any], content: bytes
) -> None:
    fields = {"exclude": [layer.name for layer in measured(chain("resnet").exported, tmp_path).layers[1:]]}
    for path in (tmp_path / MEASURED_NAME).iterdir():
        path.write_bytes(content)
    judged.clear()
    assert len(measured(chain("resnet").exported, tmp_path, **fields).layers) == len(judged) == 1


def test_other_data_and_another_scheme_are_measured_anew(
    tmp_path: Path, chain: Chains, judged: list[Any]
) -> None:
    artifact = chain("resnet").exported
    number = len(measured(artifact, tmp_path).layers)
    for fields in (
        {"reduce_range": True},
        {"reduce_range": False},
        {"num_samples": 8},
        {"per_channel": False},
    ):
        judged.clear()
        measured(artifact, tmp_path, **fields)
        assert len(judged) in (0, number)
    assert len(list((tmp_path / MEASURED_NAME).iterdir())) == 4 * number  # one of the ranges is the default
    judged.clear()
    measured(artifact, tmp_path, data=blobs(160))
    assert len(judged) == number


def test_a_plan_says_what_is_missing_and_writes_nothing(tmp_path: Path, chain: Chains) -> None:
    asked = study(chain("resnet").exported, tmp_path / "run")
    found = plan(asked)
    assert [layer.name for layer in found.layers] == [layer.name for layer in asked.layers]
    assert not any(layer.is_measured for layer in found.layers)
    assert found.seconds > 0
    assert not (tmp_path / "run").exists()
    noise = measure(asked, progress=NoProgress())
    again = plan(asked)
    assert all(layer.is_measured for layer in again.layers)
    assert again.seconds == 0
    weights = {layer.name: layer.num_weights for layer in noise.layers}
    assert {layer.name: layer.num_weights for layer in again.layers} == weights


def test_without_labels_there_is_no_score_and_the_calibrate_split_stands_in(
    tmp_path: Path, chain: Chains
) -> None:
    bare = Data("bare", Dataset(DATA.dataset.inputs))
    found = measured(chain("resnet").exported, tmp_path, data=bare)
    assert found.split == "calibrate"
    assert found.score is None
    assert all(layer.score is layer.drop is None for layer in found.layers)
    assert all(0 <= layer.agreement <= 1 for layer in found.layers)
    assert json.loads(json.dumps(found.document()))["layers"][0]["drop"] is None
    assert measured(chain("resnet").exported, tmp_path, data=bare) == found


def test_a_model_that_cannot_be_quantized_is_refused(tmp_path: Path, chain: Chains) -> None:
    with pytest.raises(ModelError, match="quantized already"):
        measured(chain("resnet").quantized, tmp_path)
    every = [layer.name for layer in study(chain("resnet").exported, tmp_path).layers]
    with pytest.raises(ModelError, match="no convolution or product") as caught:
        measured(chain("resnet").exported, tmp_path, exclude=every)
    assert "exclude fewer" in caught.value.hint
    with pytest.raises(ModelError, match="exclude names 'one'"):
        measured(chain("resnet").exported, tmp_path, exclude=["one"])


@pytest.mark.parametrize("name", ["vit", "bert", "mlp"])
def test_products_of_every_kind_of_model_are_layers(tmp_path: Path, name: str) -> None:
    data = data_for(name)
    loaded = load(tmp_path / "load", data, name, **KWARGS[name])
    artifact = make(tmp_path / "export", data, "export", parents={"input": loaded})
    found = measured(artifact, tmp_path, data=data)
    assert len(found.layers) > 1
    assert all(layer.sqnr_db > 0 for layer in found.layers)


@pytest.fixture
def npz(tmp_path: Path) -> str:
    names = np.array(DATA.dataset.label_names)[DATA.dataset.labels]
    np.savez(tmp_path / "data.npz", image=DATA.dataset.inputs["image"], y=names)
    return str(tmp_path / "data.npz")


def test_the_verb_exports_a_factory_and_leaves_a_document_and_a_page(
    tmp_path: Path, npz: str, judged: list[Any]
) -> None:
    options: dict[str, Any] = {"quantization": True, "kwargs": {"hidden": [32]}}
    planned = verbs.plan_sensitivity("mlp", npz, out=tmp_path / "run", **options)
    assert len(planned.layers) == 2
    assert not (tmp_path / "run").exists()
    found = verbs.sensitivity("mlp", npz, out=tmp_path / "run", **options)
    document = json.loads((tmp_path / "run" / "sensitivity.json").read_bytes())
    assert document == found.document()
    assert document["schema"] == "lissom.layer-noise/1"
    assert document["model"] == "mlp"
    assert (tmp_path / "run" / "sensitivity.html").read_text() == html_from_layer_noise(found)
    judged.clear()
    assert verbs.plan_sensitivity("mlp", npz, out=tmp_path / "run", **options).seconds == 0
    assert verbs.sensitivity("mlp", npz, out=tmp_path / "run", **options) == found
    assert not judged


def test_an_onnx_file_is_measured_as_the_artifact_it_came_from(
    tmp_path: Path, npz: str, chain: Chains
) -> None:
    artifact = chain("resnet").exported
    file = tmp_path / "small.onnx"
    file.write_bytes(artifact.file("model.onnx").read_bytes())
    one = verbs.sensitivity(artifact, npz, out=tmp_path / "one", quantization=True)
    other = verbs.sensitivity(file, npz, out=tmp_path / "other", quantization=True)
    assert one.layers == other.layers
    assert other.model == "small.onnx"


@pytest.mark.parametrize(
    "options", [{"shares": [0.5]}, {"runtime": "torch"}, {"importance": "l1"}, {"round_to": 4}]
)
def test_what_concerns_pruning_is_refused(tmp_path: Path, npz: str, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="concerns pruning"):
        verbs.sensitivity("mlp", npz, out=tmp_path / "run", quantization=True, **options)
    with pytest.raises(RequestError, match="concerns pruning"):
        verbs.plan_sensitivity("mlp", npz, out=tmp_path / "run", quantization=True, **options)
    assert not (tmp_path / "run").exists()


def test_the_command_line_shows_the_noisiest_first_and_what_to_type_next(
    tmp_path: Path, npz: str, chain: Chains, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = chain("resnet").exported
    words = ["sensitivity", str(artifact.path), "--data", npz, "--quantization", "-o", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 0
    assert "layers to measure, about" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "op", "weights", "SQNR", "dB", "agreement", "%", "drop,", "points"]
    document = json.loads((tmp_path / "run" / "sensitivity.json").read_bytes())
    worst = document["layers"][0]["name"]
    assert lines[1].split()[0] == worst
    assert lines[-1].startswith("next  ")
    assert lines[-1].endswith(f"quantize {artifact.path} --data {npz} --exclude {worst}")
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["layers"] == document["layers"]


@pytest.mark.parametrize(
    "option", [("--share", "0.5"), ("--importance", "l2"), ("--round-to", "8"), ("--runtime", "torch")]
)
def test_the_command_line_refuses_what_concerns_pruning_with_two(
    npz: str, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", "mlp", "--data", npz, "--quantization", *option]) == 2
    shown = capsys.readouterr().err
    assert f"{option[0]} concerns pruning; with --quantization nothing is removed" in shown
