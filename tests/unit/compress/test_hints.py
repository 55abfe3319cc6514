"""A student is led by the features of its teacher through a map that is trained and thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.unit.compress.taught_models import layered
from tests.unit.small import KWARGS, blobs, load, make, masked_tokens

from lissom.artifact import Artifact
from lissom.compress.hints import Led, Listener
from lissom.errors import ModelError
from lissom.structure import WEIGHTS_FILE, load_model

MODELS = "tests.unit.compress.taught_models"
DATA = blobs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("led")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Artifact:
    return load(folder / "teacher", DATA, f"{MODELS}:layered", seed=1, width=12)


@pytest.fixture(scope="module")
def student(folder: Path) -> Artifact:
    return load(folder / "student", DATA, f"{MODELS}:layered", width=4, stride=2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def led(path: Path, student: Artifact, teacher: Artifact, data: Any = DATA, **fields: Any) -> Artifact:
    options = {
        "teacher": "teacher",
        "kind": "hint",
        "student_layer": "features",
        "teacher_layer": "features",
        "epochs": 2,
        "baseline": False,
        **fields,
    }
    return make(path, data, "distill", parents={"input": student, "teacher": teacher}, **options)


def images(num_samples: int = 3) -> torch.Tensor:
    return torch.randn(num_samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_distance_is_the_mean_square_after_a_map_of_the_channels() -> None:
    student, wanted, example = layered(width=4), torch.randn(3, 12, 8, 8), images()
    model = Led(student, "features", [example], wanted, seed=0).train()
    model(example)
    found = model.distance(wanted)
    features = student.features(example)
    weight, bias = model.regressor.weight, model.regressor.bias
    total = torch.zeros(())
    for row in range(8):
        for column in range(8):
            mapped = features[:, :, row, column] @ weight.T + bias
            total = total + (mapped - wanted[:, :, row, column]).square().sum()
    assert found.item() == pytest.approx(total.item() / wanted.numel(), rel=1e-5)


def test_maps_of_another_size_are_compared_at_the_smaller() -> None:
    student, wanted, example = layered(width=4, stride=2), torch.randn(3, 12, 8, 8), images()
    model = Led(student, "features", [example], wanted, seed=0).train()
    model(example)
    found = model.distance(wanted)
    pooled = wanted.reshape(3, 12, 4, 2, 4, 2).mean(dim=(3, 5))
    mapped = model.regressor(student.features(example).movedim(1, -1)).movedim(-1, 1)
    assert found.item() == pytest.approx((mapped - pooled).square().mean().item(), rel=1e-5)


def test_only_the_tokens_that_count_lead() -> None:
    student = torch.nn.Sequential(torch.nn.Linear(5, 4))
    tokens, wanted = torch.randn(2, 6, 5), torch.randn(2, 6, 3)
    model = Led(student, "0", [tokens], wanted, seed=0).train()
    counted = torch.arange(6).expand(2, 6) < torch.tensor([[2], [5]])
    model(tokens)
    found = model.distance(wanted, counted)
    rows = [(model.regressor(student(tokens))[i, j] - wanted[i, j]) for i, j in counted.nonzero().tolist()]
    assert found.item() == pytest.approx(torch.stack(rows).square().mean().item(), rel=1e-5)


def test_going_down_the_gradient_trains_the_map_and_the_layers_below_it_alone() -> None:
    student, wanted, example = layered(width=4), layered(width=12).features(images()).detach(), images()
    model = Led(student, "features", [example], wanted, seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    for _ in range(200):
        model(example)
        value = model.distance(wanted)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert values[-1] < 0.5 * values[0]
    assert changed == {
        *("student.features.weight", "student.features.bias", "regressor.weight", "regressor.bias")
    }


def test_the_map_is_trained_and_never_in_the_artifact(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    made = led(tmp_path / "made", student, teacher, hint_weight=1.0)
    other = led(tmp_path / "other", student, teacher, hint_weight=0.0)
    old, one, two = (
        safetensors.torch.load(artifact.file(WEIGHTS_FILE).read_bytes())
        for artifact in (student, made, other)
    )
    assert one.keys() == old.keys()
    assert not torch.equal(one["features.weight"], two["features.weight"])
    assert made.manifest.num_parameters == student.manifest.num_parameters
    assert load_model(made)(images()).shape == (3, 4)
    assert not any(module._forward_hooks for module in load_model(made).modules())


def test_the_features_come_closer_to_the_teachers(
    tmp_path: Path, student: Artifact, teacher: Artifact
) -> None:
    made = led(tmp_path / "made", student, teacher, alpha=0.0, epochs=6, hint_weight=10.0, learning_rate=0.02)
    losses = [epoch["loss"] for epoch in made.manifest.notes["history"]]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_hint_goes_with_a_moving_average_of_the_weights_and_the_best_epoch(
    tmp_path: Path, student: Artifact, teacher: Artifact, ema: float | None
) -> None:
    made = led(tmp_path / "made", student, teacher, ema=ema, keep="best", channels_last=True)
    assert len(made.manifest.notes["history"]) == 2


def test_a_language_model_is_led_where_its_tokens_count(tmp_path: Path) -> None:
    data = masked_tokens(60)
    wide = load(tmp_path / "wide", data, "bert_mlm", **KWARGS["bert_mlm"] | {"width": 32})
    slim = load(tmp_path / "slim", data, "bert_mlm", **KWARGS["bert_mlm"])
    names = [name for name, _ in load_model(slim).named_modules() if name.count(".") == 1]
    made = led(tmp_path / "made", slim, wide, data, student_layer=names[0], teacher_layer=names[0], epochs=1)
    assert torch.isfinite(torch.tensor(made.manifest.notes["history"][0]["loss"]))


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"student_layer": "feature"}, "student_layer 'feature' is no module of the student", "features"),
        ({"teacher_layer": "zzz"}, "teacher_layer 'zzz' is no module of the teacher", "features, head"),
        ({"teacher_layer": "spare"}, "teacher_layer 'spare' is not called by the model", "block"),
        ({"student_layer": "spare"}, "student_layer 'spare' is not called by the model", "block"),
        ({"student_layer": "rows"}, r"features of shape \[4, 16\] .* teacher_layer \[12, 8, 8\]", "channels"),
    ],
)
def test_a_layer_that_cannot_lead_is_refused_before_anything_is_trained(
    tmp_path: Path, student: Artifact, teacher: Artifact, fields: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        led(tmp_path / "made", student, teacher, **fields)
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_listening_leaves_no_trace_when_it_stops() -> None:
    model = layered()
    listener = Listener(model, "features", "teacher")
    model(images())
    assert listener.take().shape == (3, 4, 8, 8)
    listener.stop()
    model(images())
    with pytest.raises(ModelError, match="is not called"):
        listener.take()
