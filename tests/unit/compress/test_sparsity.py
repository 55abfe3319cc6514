"""Single weights become zero where it was asked, and nothing else changes."""

from __future__ import annotations

import copy
import itertools
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.small import KWARGS, blobs, data_for, load, make
from torch import nn

from lissom.artifact import Artifact
from lissom.compress.samples import Samples
from lissom.compress.sparsity import fits_two_of_four, fours, matrices, rank_weights
from lissom.errors import ModelError, RecipeError
from lissom.models.cnn import resnet
from lissom.models.mlp import mlp
from lissom.recipe import PruneConfig, Recipe
from lissom.registry import MODELS, resolve
from lissom.structure import WEIGHTS_FILE, load_model

DATA = blobs(40)


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet(in_channels=1, num_classes=4, widths=[16, 32], blocks=[1, 1]).eval()


def perceptron(*hidden: int) -> nn.Module:
    torch.manual_seed(0)
    return mlp(in_features=64, num_classes=4, hidden=hidden or (32, 16)).eval()


def pruned(model: nn.Module, *shares: float, **fields: Any) -> dict[str, Any]:
    """The notes after every share in turn; `ratio` is the last of them."""
    config = PruneConfig.model_validate({"method": "magnitude", "ratio": shares[-1], **fields})
    samples, whole = Samples(DATA, None, None, []), copy.deepcopy(model)  # type: ignore[arg-type]
    notes: dict[str, Any] = {}
    for share in shares:
        notes = rank_weights(model, whole, config, samples).apply(model, share)
    return notes


def zeros(model: nn.Module) -> dict[str, float]:
    return {name: float((found.weight == 0).float().mean()) for name, found in matrices(model).items()}


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_each_matrix_loses_the_share_when_ranked_locally(ratio: float) -> None:
    model = network()
    notes = pruned(model, ratio)
    assert set(notes) == {"sparsity"}
    assert set(notes["sparsity"]) == {"pattern", "share", "layers", "raw_bytes", "compressed_bytes"}
    assert notes["sparsity"]["pattern"] == "unstructured"
    assert notes["sparsity"]["layers"] == pytest.approx(zeros(model))
    assert all(share == pytest.approx(ratio, abs=0.01) for share in zeros(model).values())
    assert notes["sparsity"]["share"] == pytest.approx(ratio, abs=0.001)


def test_the_smallest_weights_go_and_the_others_keep_their_bits() -> None:
    model = perceptron()
    before = copy.deepcopy(model)
    pruned(model, 0.6)
    for name, found in matrices(model).items():
        old, gone = matrices(before)[name].weight.detach(), found.weight == 0
        assert float(old[gone].abs().max()) <= float(old[~gone].abs().min())
        assert torch.equal(old[~gone], found.weight[~gone])
    matrix_names = {f"{name}.weight" for name in matrices(model)}
    for name, tensor in model.state_dict().items():
        assert name in matrix_names or torch.equal(tensor, before.state_dict()[name])


def test_ranked_globally_one_threshold_parts_all_matrices() -> None:
    model = perceptron()
    with torch.no_grad():
        matrices(model)["3"].weight.mul_(0.5)
    before = copy.deepcopy(model)
    notes = pruned(model, 0.5, ranking="global")["sparsity"]
    kept = [old.weight[matrices(model)[name].weight != 0].abs() for name, old in matrices(before).items()]
    gone = [old.weight[matrices(model)[name].weight == 0].abs() for name, old in matrices(before).items()]
    assert bool(torch.cat(gone).max() <= torch.cat(kept).min())
    assert notes["share"] == pytest.approx(0.5, abs=0.001)
    assert notes["layers"]["5"] < 0.5


def test_ranked_isomorphically_matrices_of_one_shape_share_a_threshold() -> None:
    model = perceptron(64, 64, 8)
    with torch.no_grad():
        matrices(model)["3"].weight.mul_(10)
    layers = pruned(model, 0.5, ranking="isomorphic")["sparsity"]["layers"]
    assert layers["1"] > 0.9 > 0.1 > layers["3"]
    assert (layers["1"] + layers["3"]) / 2 == pytest.approx(0.5, abs=0.001)
    assert layers["5"] == pytest.approx(0.5, abs=0.001)


def test_two_of_every_four_neighbouring_input_channels_go() -> None:
    model = network()
    before = copy.deepcopy(model)
    notes = pruned(model, 0.5, method="2:4")
    assert notes["sparsity"]["pattern"] == "2:4"
    assert notes["left"] == {"stem.0": "1 inputs are not a multiple of 4"}
    assert set(notes["sparsity"]["layers"].values()) == {0.5}
    for name in notes["sparsity"]["layers"]:
        rows, old = fours(matrices(model)[name]), fours(matrices(before)[name])
        assert ((rows == 0).sum(dim=1) == 2).all()
        assert torch.equal(rows.abs().sum(dim=1), old.abs().sort(dim=1).values[:, 2:].sum(dim=1))
    assert zeros(model)["stem.0"] == 0


def test_four_neighbours_of_a_convolution_are_channels_at_one_place() -> None:
    layer = nn.Conv2d(8, 1, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(72).view(1, 8, 3, 3))
    assert fours(matrices(layer)["weight"])[:3].tolist() == [
        [0, 9, 18, 27],
        [36, 45, 54, 63],
        [1, 10, 19, 28],
    ]


def test_four_neighbours_of_a_transposed_matrix_are_its_inputs_too() -> None:
    class Conv1D(nn.Module):
        """As transformers has it for GPT-2."""

        def __init__(self) -> None:
            super().__init__()
            self.nf = 3
            self.weight = nn.Parameter(torch.arange(24.0).view(8, 3) + 1)

    turned, layer = nn.Sequential(Conv1D()), nn.Sequential(nn.Linear(8, 3))
    with torch.no_grad():
        layer[0].weight.copy_(turned[0].weight.T)
    for model in (turned, layer):
        pruned(model, 0.5, method="2:4")
    assert torch.equal(turned[0].weight.T, layer[0].weight)
    assert zeros(turned) == {"0": 0.5}


def test_a_grouped_convolution_is_cut_within_its_groups() -> None:
    fitting, transposed, depthwise = (
        nn.Conv2d(16, 16, 3, groups=4),
        nn.ConvTranspose2d(16, 16, 3, groups=4),
        nn.Conv2d(16, 16, 3, groups=16),
    )
    assert [fits_two_of_four(matrices(layer)["weight"]) for layer in (fitting, transposed, depthwise)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("method", "last"), [("magnitude", 0.8), ("2:4", 0.5)])
def test_zeros_add_up_over_the_steps(method: str, last: float) -> None:
    model, at_once = perceptron(), perceptron()
    seen = []
    for share in (0.5 * last, 0.9 * last, last):
        pruned(model, share, method=method, ratio=last)
        seen.append({name: found.weight == 0 for name, found in matrices(model).items()})
    assert all((old[name] <= new[name]).all() for old, new in itertools.pairwise(seen) for name in old)
    assert float(seen[0]["1"].float().mean()) == pytest.approx(0.5 * last, abs=0.001)
    pruned(at_once, last, method=method)
    assert all(
        torch.equal(found.weight, matrices(model)[name].weight) for name, found in matrices(at_once).items()
    )


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.98), st.integers(0, 1000))
@settings(max_examples=40)
def test_whatever_the_share_so_many_weights_go_and_one_stays(
    rows: int, columns: int, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(columns, rows))
    wanted = min(round(share * rows * columns), rows * columns - 1)
    if share and not wanted:
        with pytest.raises(ModelError, match="nothing was pruned"):
            pruned(layer, share)
    else:
        pruned(layer, share)
    assert int((layer[0].weight == 0).sum()) == wanted


def test_a_copy_of_the_ranked_model_is_pruned_and_the_model_is_not() -> None:
    model = perceptron()
    config = PruneConfig(method="magnitude")
    reduction = rank_weights(model, model, config, Samples(DATA, None, None, []))  # type: ignore[arg-type]
    trial = copy.deepcopy(model)
    reduction.apply(trial, 0.5)
    assert set(zeros(model).values()) == {0.0}
    assert all(share == pytest.approx(0.5, abs=0.01) for share in zeros(trial).values())


@pytest.mark.parametrize("name", MODELS)
def test_the_matrices_of_every_architecture_are_found_and_no_embedding_is(name: str) -> None:
    model = resolve(name, known=MODELS)(**KWARGS.get(name, {}))
    found = {id(matrix.weight) for matrix in matrices(model).values()}
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module.weight) not in embedded
    ]
    assert {id(weight) for weight in layers} <= found
    assert not found & embedded
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    assert {id(p) for module in recurrent for p in module.parameters() if p.dim() == 2} <= found


def test_a_matrix_that_two_layers_share_counts_once() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    assert list(matrices(nn.Sequential(first, second))) == ["0"]


def test_what_is_excluded_is_left_and_not_counted() -> None:
    model = network()
    layers = pruned(model, 0.5, exclude=["blocks.0", "head"])["sparsity"]["layers"]
    assert layers
    assert not [name for name in layers if name.startswith(("blocks.0", "head"))]
    assert {share for name, share in zeros(model).items() if name not in layers} == {0.0}


def test_an_excluded_name_that_is_no_module_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"exclude names 'blocks\.0\.conv'") as caught:
        pruned(network(), 0.5, exclude=["blocks.0.conv"])
    assert "blocks.0.conv1" in caught.value.hint


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(bad: float) -> None:
    model = network()
    with torch.no_grad():
        model.blocks[1].conv2.weight[3, 2, 1, 0] = bad
    with pytest.raises(ModelError, match=r"the weights of blocks\.1\.conv2 are not finite"):
        pruned(model, 0.5)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm(4)), {}, "nothing can be pruned: no layer"),
        (nn.Sequential(nn.Linear(4, 4)), {"exclude": ["0"]}, "nothing can be pruned: no layer"),
        (nn.Sequential(nn.Linear(3, 8)), {"method": "2:4"}, r"no layer has inputs .* multiple of 4 \(0 3\)"),
    ],
)
def test_nothing_to_prune_is_an_error(model: nn.Module, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        pruned(model, 0.5, **fields)
    assert caught.value.hint


@pytest.mark.parametrize(("method", "ratio"), [("magnitude", 0.5), ("2:4", 0.5)])
def test_pruning_a_model_that_is_as_sparse_already_is_an_error(method: str, ratio: float) -> None:
    model = perceptron()
    pruned(model, ratio, method=method)
    with pytest.raises(ModelError, match=r"50\.\d% of the weights were zero already, and 50\.0% were to be"):
        pruned(model, ratio, method=method)


def test_a_threshold_that_leaves_a_layer_nothing_is_refused_and_names_it() -> None:
    model = perceptron(64)
    with torch.no_grad():
        matrices(model)["3"].weight.mul_(1e-3)
    with pytest.raises(ModelError, match=r"a ratio of 0\.5 leaves no weight of 3") as caught:
        pruned(model, 0.5, ranking="global")
    assert "ranking local" in caught.value.hint


def test_ratio_zero_is_the_identity() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    assert pruned(model, 0.0)["sparsity"]["share"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet", "lstm", "gru", "vit", "bert", "gpt"])
@pytest.mark.parametrize("method", ["magnitude", "2:4"])
def test_a_sparse_artifact_reloads_with_its_zeros_and_compresses(
    tmp_path: Path, name: str, method: str
) -> None:
    whole = load(tmp_path / "load", data_for(name), name, **KWARGS[name])
    sparse = make(tmp_path / "prune", data_for(name), "prune", parents={"input": whole}, method=method)
    note, content = sparse.manifest.notes["sparsity"], sparse.file(WEIGHTS_FILE).read_bytes()
    found = zeros(load_model(sparse))
    assert {layer: found[layer] for layer in note["layers"]} == pytest.approx(note["layers"])
    assert note["raw_bytes"] == len(content) == whole.file(WEIGHTS_FILE).stat().st_size
    assert note["compressed_bytes"] == len(zlib.compress(content, 6)) < 0.9 * note["raw_bytes"]
    assert sparse.manifest.signature == whole.manifest.signature


def test_pruning_in_steps_trains_between_them_and_keeps_the_zeros(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[16])
    fields = {"method": "magnitude", "ratio": 0.75, "steps": 3, "tune": {"epochs": 1}}
    sparse = make(tmp_path / "prune", DATA, "prune", parents={"input": whole}, **fields)
    model, before = load_model(sparse), load_model(whole)
    assert all(share == pytest.approx(0.75, abs=0.01) for share in zeros(model).values())
    kept = matrices(model)["1"].weight
    assert not torch.equal(kept[kept != 0], matrices(before)["1"].weight[kept != 0])
    assert sparse.manifest.notes["sparsity"]["layers"] == pytest.approx(zeros(model))


def test_a_model_that_was_quantized_is_refused_by_its_format() -> None:
    stages = [
        {"stage": "train"},
        {"stage": "export"},
        {"stage": "quantize"},
        {"stage": "prune", "method": "magnitude"},
    ]
    with pytest.raises(RecipeError, match="onnx"):
        Recipe.from_document({"name": "late", "stages": stages})


def test_a_sparse_model_is_pruned_in_width_and_says_how_sparse_it_still_is(tmp_path: Path) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[32, 32])
    sparse = make(tmp_path / "sparse", DATA, "prune", parents={"input": whole}, method="2:4")
    narrow: Artifact = make(tmp_path / "narrow", DATA, "prune", parents={"input": sparse})
    note = narrow.manifest.notes["sparsity"]
    assert note["pattern"] == "unstructured"
    assert note["layers"] == pytest.approx(zeros(load_model(narrow)))
    assert narrow.manifest.notes["channels"]
