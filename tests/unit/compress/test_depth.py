"""The blocks that a model misses least are removed, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.compress.scenes import built, outputs, samples, samples_for
from tests.unit.small import KWARGS, blobs, data_for, load, make, next_tokens, texts
from torch import Tensor, nn

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.compress.depth import find_blocks, rank_blocks
from lissom.compress.samples import Samples
from lissom.errors import ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.tasks import Classification
from lissom.recipe import PruneConfig
from lissom.structure import Bypass, load_model

DATA = blobs(60)
DEEP: dict[str, dict[str, Any]] = {
    "resnet": {"blocks": [2, 2]},
    "resnet20": {},
    "vit": {"depth": 4},
    "bert": {"depth": 3},
    "bert_mlm": {"depth": 3},
    "gpt": {"depth": 3},
}
HUGGING_FACE = {"resnet": DATA, "vit": DATA, "bert": texts(), "gpt2": next_tokens()}


class Added(nn.Module):
    """A block that adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        nn.init.zeros_(self.layer.weight)
        nn.init.constant_(self.layer.bias, number)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.layer(x)
        return added


class Paired(Added):
    """The same in a tuple, as layers of transformers give it."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return super().forward(x), None, None


class Chain(nn.Module):
    """Blocks that give tuples, and a forward that takes them apart."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Paired(number) for number in numbers)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x, first, second = layer(x, None)
            assert first is None
            assert second is None
        return x


class Stage(nn.Module):
    """Residual blocks, as a stage that gives the shape that it takes."""

    def __init__(self, channels: int, num_blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Residual(channels) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layers(x)
        return states


class Residual(nn.Module):
    """Two layers in a row inside a shortcut; each gives the shape that it takes, and neither adds to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layer = lambda: nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))  # noqa: E731
        self.layer = nn.Sequential(layer(), layer())

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y += x
        joined: Tensor = y.relu()
        return joined


class Asked(nn.Module):
    """A forward that asks its first block for something."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Added(number) for number in (1.0, 2.0, 3.0))

    def forward(self, x: Tensor) -> Tensor:
        first: Any = self.blocks[0]
        x = x.flatten(1)[:, : first.layer.in_features]
        for block in self.blocks:
            x = block(x)
        return x


def unlabelled(labelled: Data = DATA) -> Samples:
    """The same samples without labels."""
    data = Data("unlabelled", Dataset(labelled.dataset.inputs))
    example = [torch.from_numpy(array[:2]) for array in data.tensors("calibrate").values()]
    output = TensorSpec(name="logits", dtype="float32", shape=("batch", 64))
    signature = Signature(inputs=data.input_specs, outputs=(output,))
    return Samples(data, Classification(), signature, example)


def adding(*numbers: float) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *(Added(number) for number in numbers)).eval()


def depth(**fields: Any) -> PruneConfig:
    return PruneConfig(method="depth", **fields)


def removed(model: nn.Module, found: Samples, share: float, **fields: Any) -> dict[str, Any]:
    """What one step removes from `model`."""
    notes: dict[str, Any] = rank_blocks(model, copy.deepcopy(model), depth(**fields), found).apply(
        model, share
    )
    return notes["blocks"]


def bypassed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Bypass)]


def pruned(folder: Path, data: Data, source: str, kwargs: dict[str, Any], **fields: Any) -> Artifact:
    whole = load(folder / "load", data, source, **kwargs)
    return make(folder / "prune", data, "prune", parents={"input": whole}, method="depth", **fields)


@pytest.mark.parametrize("name", DEEP)
def test_a_model_without_some_blocks_is_reloaded_and_pruned_again(name: str, tmp_path: Path) -> None:
    data, kwargs = data_for(name), {**KWARGS[name], **DEEP[name]}
    artifact = pruned(tmp_path, data, name, kwargs)
    blocks = artifact.manifest.notes["blocks"]
    again = load_model(Artifact.open(artifact.path))
    assert sorted(blocks["removed"]) == sorted(bypassed(again))
    assert blocks["removed"]
    assert blocks["kept"] >= 1
    assert len(blocks["scores"]) == blocks["kept"] + len(blocks["removed"])
    assert not any(key.startswith(f"{blocks['removed'][0]}.") for key in again.state_dict())
    narrow = make(tmp_path / "narrow", data, "prune", parents={"input": artifact}, round_to=2)
    assert narrow.manifest.num_parameters < artifact.manifest.num_parameters
    assert bypassed(load_model(narrow)) == bypassed(again)


def test_a_model_without_some_blocks_is_trained_and_exported(tmp_path: Path) -> None:
    kwargs = {**KWARGS["vit"], **DEEP["vit"]}
    artifact = pruned(tmp_path, DATA, "vit", kwargs)
    trained = make(tmp_path / "train", DATA, "train", parents={"input": artifact}, epochs=1)
    assert bypassed(load_model(trained)) == bypassed(load_model(artifact))
    exported = make(tmp_path / "export", DATA, "export", parents={"input": trained})
    assert exported.manifest.format == "onnx"


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_blocks_of_transformers_are_removed(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data, source = HUGGING_FACE[name], f"tests.unit.compress.hugging_face:{name}"
    artifact = pruned(tmp_path, data, source, {}, ratio=0.34)
    blocks = artifact.manifest.notes["blocks"]
    assert bypassed(load_model(artifact)) == blocks["removed"]
    assert [len(blocks["removed"]), blocks["kept"]] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_what_is_left_of_transformers_is_exported(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    data, source = HUGGING_FACE[name], f"tests.unit.compress.hugging_face:{name}"
    artifact = pruned(tmp_path, data, source, {}, ratio=0.34)
    assert make(tmp_path / "export", data, "export", parents={"input": artifact}).manifest.format == "onnx"


@pytest.mark.parametrize("gone", [["blocks.0"], ["blocks.1", "blocks.2"]])
def test_a_language_model_without_blocks_generates_what_it_predicts(gone: list[str]) -> None:
    model: Any = built("gpt", depth=3)
    for name in gone:
        model.set_submodule(name, Bypass())
    tokens = torch.tensor([[1, 2, 3], [4, 6, 8]])
    slowly = tokens
    for _ in range(5):
        slowly = torch.cat([slowly, model(slowly)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(model.generate(tokens, 5), slowly)


@pytest.mark.parametrize(
    ("name", "idle"), [("resnet20", "blocks.7"), ("vit", "blocks.2"), ("gpt", "blocks.1")]
)
def test_a_block_that_does_nothing_goes_first(name: str, idle: str) -> None:
    model: Any = built(name, **DEEP[name])
    for key, parameter in model.get_submodule(idle).named_parameters():
        if key.startswith(("norm2", "attention.out", "feed_forward.contract")):
            nn.init.zeros_(parameter)
    found = unlabelled(data_for(name))
    before = outputs(model, found)
    blocks = removed(model, found, 0.1)
    assert blocks["removed"] == [idle]
    assert blocks["scores"][idle] == pytest.approx(0.0, abs=1e-9)
    assert torch.allclose(outputs(model, found), before, atol=1e-5)


def test_importance_is_the_rise_of_the_loss_on_the_calibrate_split() -> None:
    model = built("vit", depth=3)
    found = samples("vit")
    batches = list(found.labelled_batches())

    def loss(one: nn.Module) -> float:
        with torch.no_grad():
            total = sum(float(found.loss(one(*given), wanted)) * len(wanted) for given, wanted in batches)
        return total / sum(len(wanted) for _, wanted in batches)

    rises = {}
    for name in ("blocks.0", "blocks.1", "blocks.2"):
        other = copy.deepcopy(model)
        other.set_submodule(name, Bypass())
        rises[name] = loss(other) - loss(model)
    blocks = removed(model, found, 0.3)
    assert blocks["scores"] == pytest.approx(rises, abs=1e-6)
    assert blocks["removed"] == [min(rises, key=lambda name: rises[name])]


def test_without_labels_importance_is_the_distance_of_the_outputs_measured_again_after_each_removal() -> None:
    # 0.9 is the sum. Without the last block it is 0: then 1 is nearer than -1, where both were as far before.
    model = adding(1.0, -1.0, 0.9)
    blocks = removed(model, unlabelled(), 0.67)
    assert blocks["removed"] == ["3", "2"]
    assert blocks["kept"] == 1
    assert bypassed(model) == ["2", "3"]


def test_blocks_that_are_missed_equally_go_in_the_order_of_their_names() -> None:
    model = adding(0.0, 0.0, 0.0, 5.0)
    assert removed(model, unlabelled(), 0.5)["removed"] == ["1", "2"]


def test_shares_of_several_steps_count_from_the_whole_model() -> None:
    model = adding(1.0, 2.0, 3.0, 4.0)
    whole, found = copy.deepcopy(model), unlabelled()
    first = rank_blocks(model, whole, depth(), found).apply(model, 0.25)
    assert first["blocks"]["removed"] == ["1"]
    second = rank_blocks(model, whole, depth(), found)
    trial = copy.deepcopy(model)
    assert second.apply(trial, 0.75)["blocks"] | {"scores": 0} == {
        "removed": ["2", "3"],
        "kept": 1,
        "scores": 0,
    }
    assert bypassed(model) == ["1"]
    assert second.apply(model, 0.5)["blocks"] | {"scores": 0} == {"removed": ["2"], "kept": 2, "scores": 0}
    assert bypassed(model) == ["1", "2"]


@pytest.mark.parametrize(("share", "number"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.7, 3)])
def test_a_share_of_the_blocks_goes_at_least_one(share: float, number: int) -> None:
    model = adding(1.0, 2.0, 3.0, 4.0)
    assert len(removed(model, unlabelled(), share)["removed"]) == number


def test_a_share_of_zero_removes_nothing() -> None:
    model = adding(1.0, 2.0)
    found = unlabelled()
    before = outputs(model, found)
    assert removed(model, found, 0.0) == {"removed": [], "kept": 2, "scores": {}}
    assert torch.equal(outputs(model, found), before)


def test_one_block_must_stay() -> None:
    model = adding(1.0, 2.0, 3.0)
    with pytest.raises(
        ModelError, match=r"a share of 90% is all that can be removed, 1, 2, 3 \(3 in all\)"
    ) as caught:
        removed(model, unlabelled(), 0.9)
    assert caught.value.hint == "lower the ratio to 0.67"
    with pytest.raises(ModelError, match="one must stay") as caught:
        removed(adding(1.0), unlabelled(), 0.5)
    assert "width" in caught.value.hint


@pytest.mark.parametrize("exclude", ["1", "1.layer"])
def test_an_excluded_block_stays_and_one_that_holds_an_excluded_layer_too(exclude: str) -> None:
    model = adding(0.0, 1.0, 2.0)
    assert removed(model, unlabelled(), 0.5, exclude=(exclude,))["removed"] == ["2"]


def test_a_name_that_is_no_module_is_refused_with_near_ones() -> None:
    with pytest.raises(ModelError, match=r"exclude names '1\.layr', which is no module") as caught:
        removed(adding(1.0, 2.0), unlabelled(), 0.5, exclude=("1.layr",))
    assert "1.layer" in caught.value.hint


def test_blocks_that_are_all_excluded_are_named() -> None:
    model = built("vit", depth=2)
    with pytest.raises(ModelError, match=r"nothing to prune: .*looked at blocks\.0 \(excluded\)") as caught:
        removed(model, samples("vit"), 0.5, exclude=("blocks",))
    assert "exclude less" in caught.value.hint


@pytest.mark.parametrize("name", ["mlp", "vgg", "lstm"])
def test_a_model_without_blocks_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="nothing to prune: the model has no block") as caught:
        removed(built(name), samples(name), 0.5)
    assert "prune by width or low-rank instead" in caught.value.hint


def test_blocks_that_change_the_shape_are_named() -> None:
    block = lambda wide, out: nn.Sequential(nn.Linear(wide, out), nn.ReLU())  # noqa: E731
    model = nn.Sequential(nn.Flatten(), block(64, 8), block(8, 4))
    with pytest.raises(ModelError, match=r"looked at 1 \(gives another shape\), 2 \(gives another shape\)"):
        removed(model, samples_for(DATA), 0.5)


def test_the_blocks_inside_a_stage_count_and_neither_the_stage_nor_their_layers() -> None:
    model = nn.Sequential(Stage(1, 2), Stage(1, 1), nn.Flatten()).eval()
    found = find_blocks(model, depth(), unlabelled().example)
    assert found == {"0.layers.0": 0, "0.layers.1": 0, "1.layers.0": 0}


def test_without_shortcuts_whatever_gives_the_shape_that_it_takes_counts() -> None:
    block = lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())  # noqa: E731
    model = nn.Sequential(nn.Sequential(block(), block()), block(), nn.Flatten()).eval()
    found = unlabelled()
    assert list(find_blocks(model, depth(), found.example)) == ["0", "1"]
    assert len(removed(model, found, 0.5)["removed"]) == 1


def test_a_module_that_stands_in_two_places_is_no_block() -> None:
    shared = Added(1.0)
    model = nn.Sequential(nn.Flatten(), shared, shared, Added(2.0), Added(3.0)).eval()
    assert list(find_blocks(model, depth(), unlabelled().example)) == ["3", "4"]


def test_a_block_that_gives_a_tuple_is_bypassed_by_a_tuple() -> None:
    model = Chain([1.0, 2.0, 3.0]).eval()
    found = unlabelled()
    assert removed(model, found, 0.5)["removed"] == ["layers.0", "layers.1"]
    assert torch.allclose(outputs(model, found), found.example[0].flatten(1) + 3.0)


def test_a_block_that_the_model_asks_for_something_stays() -> None:
    model = Asked().eval()
    assert list(find_blocks(model, depth(), unlabelled().example)) == ["blocks.1", "blocks.2"]
    with pytest.raises(ModelError, match=r"blocks\.0 \(the model does not run: AttributeError"):
        removed(model, unlabelled(), 0.5, exclude=("blocks.1", "blocks.2"))


def test_layers_of_torch_are_blocks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, batch_first=True)
    model = nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 3), nn.Flatten()).eval()
    found = unlabelled()
    names = list(find_blocks(model, depth(), found.example))
    assert set(names) <= {"1.layers.0", "1.layers.1", "1.layers.2"}
    assert len(names) >= 2
    assert len(removed(model, found, 0.4)["removed"]) == 1


def test_the_line_of_the_users_code_is_shown_when_the_model_does_not_run(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x @ torch.ones(3, 3)\n"
    )
    names: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), names)
    with pytest.raises(ModelError, match=r"net\.py:5"):
        removed(names["Net"](), unlabelled(), 0.5)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = adding(float("nan"), 1.0, 2.0)
    with pytest.raises(ModelError, match="importance cannot be measured: the loss is nan") as caught:
        removed(model, unlabelled(), 0.5)
    assert "NaN" in caught.value.hint


def test_a_stage_removes_blocks_in_steps_and_down_to_a_number_of_multiply_adds(tmp_path: Path) -> None:
    data, kwargs = data_for("vit"), {**KWARGS["vit"], "depth": 4}
    whole = load(tmp_path / "load", data, "vit", **kwargs)
    tune = {"epochs": 1, "learning_rate": 0.01}
    steps = make(
        tmp_path / "steps", data, "prune", parents={"input": whole}, method="depth", steps=2, tune=tune
    )
    assert len(bypassed(load_model(steps))) == 2
    assert steps.manifest.notes["blocks"]["kept"] == 2
    less = make(
        tmp_path / "macs", data, "prune", parents={"input": whole}, method="depth", of="macs", ratio=0.3
    )
    before, after = less.manifest.notes["macs"]
    assert 0.4 * before < after <= 0.7 * before
    assert len(bypassed(load_model(less))) == 2


def test_a_model_without_labels_is_pruned_by_its_outputs(tmp_path: Path) -> None:
    data = Data("unlabelled", Dataset(DATA.dataset.inputs))
    kwargs = {**KWARGS["vit"], "depth": 3, "in_channels": 1, "num_classes": 4}
    artifact = pruned(tmp_path, data, "vit", kwargs, ratio=0.3)
    blocks = artifact.manifest.notes["blocks"]
    assert bypassed(load_model(artifact)) == blocks["removed"]
    assert all(score > 0 for score in blocks["scores"].values())
