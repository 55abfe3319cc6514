"""Inspection of torch models: what layers hold, and units that are dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from lissom.errors import ModelError
from lissom.models import inspection
from lissom.models.catalogue import flops_by_module, flops_of
from lissom.models.inspection import NUM_BINS, histogram, look_inside_torch
from lissom.models.rnn import lstm
from lissom.models.vit import vit


class Dying(nn.Module):
    """Of four channels one never fires; the second rectifier is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Linear(4, 3)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.first.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -100.0]))

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.relu(self.first(image)).mean(dim=(2, 3))
        return torch.relu(self.second(pooled))


IMAGES = {"image": np.random.default_rng(0).random((6, 1, 5, 5), dtype=np.float32)}


def test_layers_are_seen_in_the_order_of_execution() -> None:
    found = look_inside_torch(Dying().eval(), IMAGES)
    assert [layer.name for layer in found.layers] == ["first", "second"]
    assert [layer.num_parameters for layer in found.layers] == [8, 15]
    assert [layer.flops for layer in found.layers] == [2 * 4 * 25, 2 * 12]
    outputs = found.layers[0].outputs
    assert outputs is not None
    assert sum(outputs.histogram.counts) == 6 * 4 * 25
    assert found.num_samples == 6


def test_of_large_activations_fewer_samples_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MOST_VALUES", 2 * 4 * 25)  # the first layer gives 4 x 5 x 5 for a sample
    found = look_inside_torch(Dying().eval(), IMAGES)
    outputs = found.layers[0].outputs
    assert outputs is not None
    assert (found.num_samples, sum(outputs.histogram.counts)) == (2, 2 * 4 * 25)


def test_dead_units_are_counted_behind_every_rectifier() -> None:
    found = look_inside_torch(Dying().eval(), IMAGES).rectifiers
    assert [(one.name, one.num_units) for one in found] == [("relu", 4), ("(rest)", 3)]
    assert found[0].num_dead == 1


def test_a_rectifier_that_is_called_twice_counts_twice() -> None:
    class Twice(Dying):
        def forward(self, image: Tensor) -> Tensor:
            return self.relu(self.relu(self.first(image))).mean(dim=(2, 3))

    assert [one.name for one in look_inside_torch(Twice().eval(), IMAGES).rectifiers] == ["relu", "relu (2)"]


def test_feature_maps_are_those_of_the_layer_that_was_asked_for() -> None:
    model = Dying().eval()
    assert look_inside_torch(model, IMAGES).feature_maps.layer == "first"  # type: ignore[union-attr]
    asked = look_inside_torch(model, IMAGES, layer="relu").feature_maps
    assert asked is not None
    assert asked.maps.shape == (4, 5, 5)
    assert asked.maps.min() == 0


def test_an_unknown_layer_is_answered_with_near_names() -> None:
    with pytest.raises(ModelError, match="no module 'frist'") as caught:
        look_inside_torch(Dying().eval(), IMAGES, layer="frist")
    assert "first" in (caught.value.hint or "")


def test_a_layer_without_maps_is_refused() -> None:
    with pytest.raises(ModelError, match="'second' gives no feature maps"):
        look_inside_torch(Dying().eval(), IMAGES, layer="second")


def test_watching_leaves_no_hooks() -> None:
    model = Dying().eval()
    look_inside_torch(model, IMAGES)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_operations_of_layers_add_up_to_those_of_the_model() -> None:
    model = vit(image_size=16, patch_size=4, in_channels=1, width=24, depth=2).eval()
    image = torch.zeros(1, 1, 16, 16)
    layers = look_inside_torch(model, {"image": image.numpy()}).layers
    assert sum(layer.flops or 0 for layer in layers) == flops_of(model, [image])


def test_recurrent_layers_have_their_operations() -> None:
    model = lstm(vocab_size=20).eval()
    tokens = torch.ones(1, 7, dtype=torch.int64)
    work = flops_by_module(model, [tokens])
    assert work["recurrent"] > 0
    assert work[""] == work["recurrent"] + work["head"]


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32)))
@settings(max_examples=50, deadline=None)
def test_histogram_counts_every_value_once(values: np.ndarray) -> None:
    found = histogram(values)
    assert sum(found.counts) == values.size
    assert len(found.counts) == NUM_BINS
    assert found.low == values.min()
    assert found.high == values.max()


def test_histogram_counts_apart_what_is_not_finite() -> None:
    found = histogram(np.array([1.0, np.inf, np.nan, 3.0]))
    assert (found.low, found.high, sum(found.counts), found.num_outside) == (1.0, 3.0, 2, 2)
    assert histogram(np.array([np.nan])).num_outside == 1


def test_one_outlier_among_millions_is_seen() -> None:
    values = np.zeros(1 << 22, np.float32)
    values[3] = 100
    found = histogram(values)
    assert (found.high, found.counts[-1], sum(found.counts)) == (100.0, 1, len(values))


@pytest.mark.parametrize("rectifier", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 3.0)])
def test_every_kind_of_rectifier_is_seen(rectifier: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), rectifier).eval()
    (found,) = look_inside_torch(model, IMAGES).rectifiers
    assert (found.name, found.num_units) == ("1", 4)


def test_what_cuts_off_elsewhere_is_no_rectifier() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Hardtanh()).eval()
    assert look_inside_torch(model, IMAGES).rectifiers == ()


def test_units_of_a_convolution_along_time_are_its_channels() -> None:
    model = nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU()).eval()
    sequences = {"x": np.random.default_rng(0).standard_normal((3, 2, 12)).astype(np.float32)}
    assert look_inside_torch(model, sequences).rectifiers[0].num_units == 5


def test_parameters_that_are_shared_or_never_called_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embedding(tokens))

    layers = look_inside_torch(Tied().eval(), {"tokens": np.ones((2, 3), np.int64)}).layers
    assert sum(layer.num_parameters for layer in layers) == 40
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    layers = look_inside_torch(attention, {"x": np.ones((2, 3, 8), np.float32)}).layers
    whole = sum(parameter.numel() for parameter in attention.parameters())
    assert sum(layer.num_parameters for layer in layers) == whole
