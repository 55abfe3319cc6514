"""Every group is measured alone, and once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.small import KWARGS, blobs, data_for, load
from torch import nn

from lissom import verbs
from lissom.artifact import Artifact
from lissom.cli import main
from lissom.compress import sensitivity
from lissom.compress.sensitivity import MEASURED_NAME, Sensitivity, check_shares, measure, plan, study_of
from lissom.errors import ArtifactError, DataError, MissingExtra, ModelError, RecipeError, RequestError
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import PruneConfig
from lissom.report.sensitivity_page import html_from_sensitivity
from lissom.structure import load_model

DATA = blobs(noise=1.5)
SHARES = (0.25, 0.5)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Every model that was timed; its latency share is that of its parameters."""
    found: list[nn.Module] = []

    @contextmanager
    def opened(model: nn.Module, *_: Any) -> Iterator[Callable[[nn.Module], float]]:
        def share(other: nn.Module) -> float:
            found.append(other)
            return num_parameters(other) / num_parameters(model)

        yield share

    monkeypatch.setattr(sensitivity, "timed_against", opened)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load(tmp_path_factory.mktemp("whole") / "load", DATA, "mlp", hidden=[32, 16, 8])


def measured(
    artifact: Artifact,
    folder: Path,
    *,
    data: Data = DATA,
    shares: tuple[float, ...] = SHARES,
    **fields: Any,
) -> Sensitivity:
    study = study_of(artifact, data, PruneConfig.model_validate(fields), runtime="torch", folder=folder)
    return measure(study, shares, progress=NoProgress())


def widths(model: nn.Module) -> dict[str, int]:
    return {name: module.out_features for name, module in model.named_modules() if hasattr(module, "weight")}


def test_one_group_at_a_time_loses_its_share_and_the_others_stay_whole(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module]
) -> None:
    found = measured(whole, tmp_path)
    before = widths(load_model(whole))
    changed = [
        {name: [before[name], width] for name, width in widths(model).items() if width != before[name]}
        for model in timed
    ]
    assert len(changed) == 3
    assert all(change in changed for change in ({"1": [32, 24]}, {"1": [32, 16]}, {"3": [16, 8]}))
    trials = {group.name: [trial.channels for trial in group.shares] for group in found.groups}
    assert trials == {"1": [(32, 24), (32, 16)], "3": [(16, 16), (16, 8)], "5": [(8, 8), (8, 8)]}
    assert {group.layers for group in found.groups} == {("1",), ("3",), ("5",)}


def test_the_drop_is_that_of_the_pruned_model_on_the_select_split(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module]
) -> None:
    found = measured(whole, tmp_path)
    inputs, labels = torch.from_numpy(DATA.tensors("select")["image"]), DATA.labels("select")

    def score(model: nn.Module) -> float:
        with torch.inference_mode():
            return float((model(inputs).argmax(dim=1).numpy() == labels).mean())

    model = load_model(whole)
    assert found.score == score(model)
    assert found.num_samples == len(labels)
    trials = {(group.name, trial.channels[1]): trial for group in found.groups for trial in group.shares}
    for pruned in timed:
        name, width = next(item for item in widths(pruned).items() if item[1] != widths(model)[item[0]])
        trial = trials[name, width]
        assert trial.score == score(pruned)
        assert trial.drop == pytest.approx(found.score - trial.score)
        assert trial.latency_share == num_parameters(pruned) / num_parameters(model)


def test_a_group_that_can_spare_nothing_costs_nothing_and_is_not_measured(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module]
) -> None:
    (group,) = (group for group in measured(whole, tmp_path).groups if group.name == "5")
    assert [(trial.drop, trial.latency_share) for trial in group.shares] == [(0.0, 1.0)] * 2
    assert len(list((tmp_path / MEASURED_NAME).iterdir())) == len(timed) == 3


def test_groups_stand_in_the_order_of_what_they_cost(tmp_path: Path, whole: Artifact) -> None:
    found = measured(whole, tmp_path, shares=(0.25, 0.5, 0.75), round_to=2)
    keys = [(round(group.drop, 3), -group.saved) for group in found.groups]
    assert keys == sorted(keys)
    assert [trial.share for trial in found.groups[0].shares] == [0.25, 0.5, 0.75]


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module]
) -> None:
    first = measured(whole, tmp_path)
    number = len(timed)
    assert measured(whole, tmp_path) == first
    assert len(timed) == number
    measured(whole, tmp_path, shares=(0.5, 0.75))
    assert len(timed) == number + 2  # 0.75 of both groups that can lose any


def test_a_run_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = measured(whole, tmp_path / "whole")
    timed.clear()
    opened = sensitivity.timed_against

    @contextmanager
    def failing(*arguments: Any) -> Iterator[Callable[[nn.Module], float]]:
        with opened(*arguments) as share:

            def interrupted(model: nn.Module) -> float:
                if len(timed) == 2:
                    raise KeyboardInterrupt
                return share(model)

            yield interrupted

    monkeypatch.setattr(sensitivity, "timed_against", failing)
    with pytest.raises(KeyboardInterrupt):
        measured(whole, tmp_path / "cut")
    monkeypatch.setattr(sensitivity, "timed_against", opened)
    assert measured(whole, tmp_path / "cut") == unbroken
    assert len(timed) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"figures": {"score": 1}}', b"{}"])
def test_a_damaged_measurement_is_made_again(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module], content: bytes
) -> None:
    first = measured(whole, tmp_path)
    for path in (tmp_path / MEASURED_NAME).iterdir():
        path.write_bytes(content)
    timed.clear()
    assert measured(whole, tmp_path) == first
    assert len(timed) == 3


def test_another_model_other_data_and_other_settings_are_measured_anew(
    tmp_path: Path, whole: Artifact, timed: list[nn.Module]
) -> None:
    measured(whole, tmp_path)
    other = load(tmp_path / "load", DATA, "mlp", seed=1, hidden=[32, 16, 8])
    for change in (
        lambda: measured(other, tmp_path),
        lambda: measured(whole, tmp_path, data=blobs(120, noise=1.5)),
        lambda: measured(whole, tmp_path, importance="l1"),
        lambda: measured(whole, tmp_path, round_to=16),
    ):
        timed.clear()
        change()
        assert timed


def test_the_model_stays_as_it_was(tmp_path: Path, whole: Artifact) -> None:
    study = study_of(whole, DATA, PruneConfig(), runtime="torch", folder=tmp_path)
    before = copy.deepcopy(study.model.state_dict())
    measure(study, SHARES, progress=NoProgress())
    assert all(torch.equal(tensor, before[name]) for name, tensor in study.model.state_dict().items())


def test_what_is_excluded_is_no_group(tmp_path: Path, whole: Artifact) -> None:
    assert [group.name for group in measured(whole, tmp_path, exclude=["1", "5"]).groups] == ["3"]
    with pytest.raises(ModelError, match="no layer can lose channels") as caught:
        measured(whole, tmp_path, exclude=["1", "3", "5"])
    assert "exclude fewer" in caught.value.hint
    with pytest.raises(ModelError, match="exclude names 'one'"):
        measured(whole, tmp_path, exclude=["one"])


@pytest.mark.parametrize("name", ["resnet", "lstm", "vit", "gpt"])
def test_channels_units_and_heads_are_groups(tmp_path: Path, name: str, timed: list[nn.Module]) -> None:
    data = data_for(name)
    artifact = load(tmp_path / "load", data, name, **KWARGS[name])
    found = measured(artifact, tmp_path, data=data, shares=(0.5,), round_to=4)
    assert len(timed) == sum(
        group.shares[0].channels[0] > group.shares[0].channels[1] for group in found.groups
    )
    assert timed
    assert len({group.name for group in found.groups}) == len(found.groups)
    assert all(0 < trial.latency_share <= 1 for group in found.groups for trial in group.shares)


def test_a_plan_says_what_is_missing_and_writes_nothing(tmp_path: Path, whole: Artifact) -> None:
    study = study_of(whole, DATA, PruneConfig(), runtime="torch", folder=tmp_path / "run")
    found = plan(study, SHARES)
    assert {group.name: group.channels for group in found.groups} == {
        "1": (32, 24, 16),
        "3": (16, 16, 8),
        "5": (8, 8, 8),
    }
    assert {group.name: group.missing for group in found.groups} == {"1": SHARES, "3": (0.5,), "5": ()}
    assert found.seconds > 0
    assert not (tmp_path / "run").exists()
    measure(study, SHARES, progress=NoProgress())
    assert plan(study, SHARES).seconds == 0


@pytest.mark.parametrize("shares", [[], [0.0], [1.0], [0.5, -0.1], [float("nan")], [2]])
def test_a_share_that_cannot_be_removed_is_refused(shares: list[float]) -> None:
    with pytest.raises(RequestError, match="share"):
        check_shares(shares)


def test_without_labels_or_a_select_split_there_is_nothing_to_lose(tmp_path: Path, whole: Artifact) -> None:
    images, labels = DATA.dataset.inputs, DATA.dataset.labels
    unlabelled = Data("bare", Dataset(images))
    with pytest.raises(DataError, match="bare has no labels") as caught:
        measured(whole, tmp_path, data=unlabelled)
    assert "labels" in caught.value.hint
    split = np.array(["train"] * 100 + ["report"] * 60)
    unselected = Data("cut", Dataset(images, labels, DATA.dataset.label_names, split=split))
    with pytest.raises(DataError, match="cut has no samples in the select split"):
        measured(whole, tmp_path, data=unselected)


def test_a_runtime_that_is_unknown_or_absent_is_refused(
    tmp_path: Path, whole: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="unknown runtime 'onnx'"):
        study_of(whole, DATA, PruneConfig(), runtime="onnx", folder=tmp_path)
    monkeypatch.setattr("lissom.runtime.availability.is_installed", lambda module: False)
    with pytest.raises(MissingExtra, match="openvino"):
        study_of(whole, DATA, PruneConfig(), runtime="openvino", folder=tmp_path)


def test_an_exported_model_is_refused_by_its_format(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has the format onnx"):
        measured(tiny_onnx_artifact(tmp_path / "tiny"), tmp_path)


def test_latency_is_measured_for_real_where_it_is_not_replaced(
    tmp_path: Path, whole: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    found = measured(whole, tmp_path, shares=(0.5,), exclude=["3", "5"])
    (trial,) = found.groups[0].shares
    assert 0.1 < trial.latency_share < 5
    assert trial.channels == (32, 16)


@pytest.fixture
def npz(tmp_path: Path) -> str:
    names = np.array(DATA.dataset.label_names)[DATA.dataset.labels]
    np.savez(tmp_path / "data.npz", image=DATA.dataset.inputs["image"], y=names)
    return str(tmp_path / "data.npz")


def test_the_verb_takes_a_factory_and_leaves_a_document_and_a_page(tmp_path: Path, npz: str) -> None:
    options: dict[str, Any] = {"shares": [0.5], "runtime": "torch", "kwargs": {"hidden": [32]}}
    planned = verbs.plan_sensitivity("mlp", npz, out=tmp_path / "run", **options)
    assert [group.channels for group in planned.groups] == [(32, 16)]
    assert not (tmp_path / "run").exists()
    found = verbs.sensitivity("mlp", npz, out=tmp_path / "run", **options)
    document = json.loads((tmp_path / "run" / "sensitivity.json").read_bytes())
    assert document == found.document()
    assert document["schema"] == "lissom.sensitivity/1"
    (group,) = document["groups"]
    assert set(group["shares"][0]) == {"share", "channels", "score", "drop", "latency_share"}
    assert (tmp_path / "run" / "sensitivity.html").read_text() == html_from_sensitivity(found)
    assert verbs.plan_sensitivity("mlp", npz, out=tmp_path / "run", **options).seconds == 0


def test_an_option_out_of_range_is_refused(npz: str) -> None:
    with pytest.raises(RecipeError, match="round_to"):
        verbs.sensitivity("mlp", npz, round_to=0)


def test_the_command_line_shows_a_table_and_one_document(
    tmp_path: Path, whole: Artifact, npz: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sensitivity", str(whole.path), "--data", npz, "--runtime", "torch", "--share", "0.5"]
    words += ["-o", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 0
    assert "2 to measure on torch" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["group", "layers", "channels", "at", "50%", "saved"]
    assert {line.split()[0] for line in table[1:4]} == {"1", "3", "5"}
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["schema"] == "lissom.result/1"
    assert [group["name"] for group in document["groups"]] == [line.split()[0] for line in table[1:4]]


def test_the_command_line_refuses_a_bad_share_with_two(
    whole: Artifact, npz: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", str(whole.path), "--data", npz, "--share", "1.5"]) == 2
    assert "a share of 1.5 cannot be removed" in capsys.readouterr().err
