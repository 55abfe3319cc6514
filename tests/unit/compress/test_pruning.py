"""The stage: steps with training between them, targets in cost, what is noted and stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.compress.scenes import samples
from tests.unit.small import KWARGS, blobs, context, data_for, load, make
from torch import nn

from lissom.cli.views import prune_planned
from lissom.compress import pruning
from lissom.compress.pruning import Preview, merged, preview, shares
from lissom.compress.targets import Target, macs, num_parameters, target_for
from lissom.compress.width import group_penalty, rank_channels
from lissom.errors import ModelError, RecipeError
from lissom.models.mlp import mlp
from lissom.recipe import PruneConfig, Recipe
from lissom.structure import load_model

DATA = blobs(120)
TUNE = {"epochs": 1, "learning_rate": 0.01}


def perceptron(*hidden: int) -> nn.Module:
    torch.manual_seed(0)
    return mlp(in_features=64, num_classes=4, hidden=hidden).eval()


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
def test_the_last_step_reaches_the_ratio_and_none_goes_back(schedule: str) -> None:
    found = shares(PruneConfig(ratio=0.6, steps=5, schedule=schedule, tune=TUNE))  # type: ignore[arg-type]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.6)
    assert len(found) == 5


def test_the_cubic_schedule_removes_most_at_the_beginning() -> None:
    linear, cubic = (
        shares(PruneConfig(ratio=0.8, steps=4, schedule=schedule, tune=TUNE))  # type: ignore[arg-type]
        for schedule in ("linear", "cubic")
    )
    assert all(one > other for one, other in zip(cubic[:-1], linear[:-1], strict=True))


def test_notes_of_two_steps_span_both() -> None:
    before = {"channels": {"a": [32, 24], "b": [16, 8]}, "of": "macs"}
    after = {"channels": {"a": [24, 16]}}
    assert merged(before, after) == {"channels": {"a": [32, 16], "b": [16, 8]}, "of": "macs"}
    one, two = (
        {"blocks": {"removed": [name, f"{name}2"], "kept": kept}} for name, kept in (("a", 4), ("b", 2))
    )
    assert merged(one, two) == {"blocks": {"removed": ["a", "a2", "b", "b2"], "kept": 2}}


def test_several_steps_end_at_the_widths_of_one(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[64, 32])
    small = make(
        tmp_path / "prune", DATA, "prune", parents={"input": whole}, ratio=0.5, steps=3, tune=TUNE, round_to=8
    )
    assert small.manifest.notes["channels"] == {"1": [64, 32], "3": [32, 16]}
    assert not list(tmp_path.glob(".training-*"))


def test_training_between_steps_changes_the_weights_that_stay(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[32])
    kinds: dict[str, dict[str, object]] = {"once": {}, "steps": {"steps": 2, "tune": TUNE}}
    once, steps = (
        load_model(make(tmp_path / name, DATA, "prune", parents={"input": whole}, **fields))
        for name, fields in kinds.items()
    )
    shapes = [[tuple(tensor.shape) for tensor in model.state_dict().values()] for model in (once, steps)]
    assert shapes[0] == shapes[1]
    assert any(
        not torch.equal(one, other)
        for one, other in zip(once.state_dict().values(), steps.state_dict().values(), strict=True)
    )


def test_the_group_penalty_pushes_the_weakest_units_hardest() -> None:
    model, given = perceptron(16), samples("mlp")
    penalty = group_penalty(model, PruneConfig(group_norm=0.1, tune=TUNE), given)
    value = penalty()
    value.backward()
    layer = model[1]
    relative = layer.weight.grad.norm(dim=1) / layer.weight.detach().norm(dim=1)
    strength = layer.weight.detach().square().sum(dim=1) + model[3].weight.detach().square().sum(dim=0)
    assert float(value) > 0
    assert relative[strength.argmin()] > relative[strength.argmax()]


def test_training_with_the_group_penalty_comes_before_the_first_step(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[32])
    small = make(tmp_path / "prune", DATA, "prune", parents={"input": whole}, tune=TUNE, group_norm=0.01)
    assert small.manifest.notes["channels"] == {"1": [32, 16]}


@pytest.mark.parametrize("of", ["macs", "parameters"])
@pytest.mark.parametrize("name", ["resnet", "vit", "gpt"])
def test_a_target_in_cost_is_met_and_hardly_more_is_removed(of: str, name: str, tmp_path: Path) -> None:
    whole = load(tmp_path / "load", data_for(name), name, **KWARGS[name])
    small = make(
        tmp_path / "prune", data_for(name), "prune", parents={"input": whole}, of=of, ratio=0.3, round_to=1
    )
    before, after = small.manifest.notes[of]
    assert 0.5 * before < after <= 0.7 * before


def test_latency_is_measured_on_the_runtime_that_is_named(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[2048, 2048])
    small = make(
        tmp_path / "prune",
        DATA,
        "prune",
        parents={"input": whole},
        of="latency",
        ratio=0.4,
        runtime="onnxruntime",
    )
    before, after = small.manifest.notes["latency"]
    assert after < 0.9 * before
    assert {path.name for path in tmp_path.iterdir()} == {"load", "prune"}


def previewed(tmp_path: Path, name: str, **options: Any) -> Preview:
    whole = load(tmp_path / "load", data_for(name), name, **KWARGS[name])
    config = PruneConfig.model_validate({"name": "prune", **options})
    found = preview({"input": whole}, config, context(tmp_path / "prune", data_for(name), config))
    assert {path.name for path in tmp_path.iterdir()} == {"load"}
    return found


def test_a_preview_says_layer_by_layer_what_would_go_and_predicts_it(tmp_path: Path) -> None:
    found = previewed(tmp_path, "resnet", ratio=0.5, round_to=4)
    assert found.removed["channels"]["blocks.0.conv1"] == [16, 8]
    assert found.layer_times.keys() == found.removed["channels"].keys()
    assert sum(before for before, _ in found.layer_times.values()) <= 1.01
    assert found.predicted is not None
    assert found.predicted > 0  # how near it is, tests/integration/test_timing.py asks, which runs alone
    assert found.parameters[1] < 0.5 * found.parameters[0]
    assert found.macs[1] < 0.5 * found.macs[0]
    lines = prune_planned(found).lines
    assert lines[0].split() == ["layer", "now", "then", "of", "the", "time", "then"]
    assert any(line.startswith("blocks.0.conv1") and "-50%" in line for line in lines)
    assert any("predicted" in line and f"measured on {found.runtime}" in line for line in lines)


def test_a_preview_of_depth_names_the_blocks_with_all_that_they_take(tmp_path: Path) -> None:
    found = previewed(tmp_path, "resnet20", method="depth", ratio=0.3)
    removed = found.removed["blocks"]["removed"]
    assert removed == list(found.layer_times)
    assert all(after == 0.0 for _, after in found.layer_times.values())


def test_where_no_onnx_is_executed_nothing_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "usable_runtimes", lambda names: ["torch"])
    found = previewed(tmp_path, "mlp", ratio=0.5)
    assert found.predicted is None
    assert found.layer_times == {}
    text = "\n".join(prune_planned(found).lines)
    assert "predicted" not in text
    assert "measured on torch" in text


def never() -> Any:
    """In place of a stopwatch, where nothing is timed."""
    raise AssertionError


def test_a_cost_that_cannot_be_reached_says_how_far_it_goes() -> None:
    model, given = perceptron(64), samples("mlp")
    config = PruneConfig(ratio=0.99, of="macs", round_to=32)
    target = target_for(model, config, given, never)
    with pytest.raises(ModelError, match=r"99% of the macs was to be saved; removing 98% .* saves 50%"):
        target.part_for(0.99, model, rank_channels(model, model, config, given))


@pytest.mark.parametrize("bias", [0.5, 0.8, 1.0, 1.3, 3.0])
def test_a_guess_saves_measurements_and_what_is_found_is_measured(bias: float) -> None:
    model, given = perceptron(256), samples("mlp")
    whole, measured = num_parameters(model), []

    def cost(trial: nn.Module) -> float:
        measured.append(num_parameters(trial) / whole)
        return measured[-1]

    reduction = rank_channels(model, model, PruneConfig(round_to=1), given)
    by_hand = Target("latency", cost, 1.0).part_for(0.4, model, reduction)
    assert len(measured) == 8
    measured.clear()
    target = Target("latency", cost, 1.0, guess=lambda trial: bias * num_parameters(trial) / whole)
    advanced: list[int] = []
    assert target.part_for(0.4, model, reduction, advance=advanced.append) == pytest.approx(by_hand, abs=0.01)
    assert sum(advanced) == target.num_trials
    assert len(measured) <= 3
    assert 0.59 < max(share for share in measured if share <= 0.6) <= 0.6


def test_a_guess_that_is_never_right_leaves_it_to_bisection() -> None:
    model, given = perceptron(256), samples("mlp")
    reduction = rank_channels(model, model, PruneConfig(round_to=1), given)
    whole = num_parameters(model)
    by_hand = Target("parameters", num_parameters, whole).part_for(0.4, model, reduction)
    blind = Target("parameters", num_parameters, whole, guess=lambda trial: 0.0)
    assert blind.part_for(0.4, model, reduction) >= by_hand
    with pytest.raises(ModelError, match="was to be saved"):
        Target("macs", lambda trial: 1.0, 1.0, guess=lambda trial: 0.1).part_for(0.4, model, reduction)


def test_a_ratio_of_zero_needs_no_trial() -> None:
    target = Target("macs", num_parameters, 100.0)
    model, given = perceptron(16), samples("mlp")
    assert target.part_for(0.0, model, rank_channels(model, model, PruneConfig(), given)) == 0.0


def test_multiply_adds_of_a_perceptron_are_its_weights() -> None:
    model, given = perceptron(16), samples("mlp")
    assert macs(model, given.example) == 64 * 16 + 16 * 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "depth", "importance": "l1"}, "method depth does not take 'importance'"),
        ({"method": "magnitude", "of": "macs"}, "zeros save no macs"),
        ({"method": "2:4", "ratio": 0.3}, "removes one half"),
        ({"runtime": "openvino"}, "set of: latency"),
        ({"steps": 3}, "need training between them"),
        ({"tune": {"epochs": 1}}, "set steps above 1"),
        ({"group_norm": 0.1}, "give tune"),
        ({"method": "widht"}, "width"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: dict[str, object], message: str) -> None:
    document = {"name": "x", "stages": [{"stage": "train"}, {"stage": "prune", **fields}]}
    with pytest.raises(RecipeError) as caught:
        Recipe.from_document(document)
    assert message in caught.value.message
