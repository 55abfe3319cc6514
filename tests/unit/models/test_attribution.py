"""Attribution: where it is known what an answer hangs on, the map says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lissom.errors import MissingExtra, ModelError
from lissom.models import attribution
from lissom.models.attribution import (
    Attributed,
    cosine,
    covered,
    feature_maps,
    gradient_maps,
    num_calls,
    occlusion_maps,
)
from lissom.models.gpt import gpt
from lissom.models.rnn import lstm
from lissom.models.vit import vit


class Corner(nn.Module):
    """Class 1 is what stands in the upper left quarter of the image; class 0 is nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.ones_(self.features.weight)

    def forward(self, image: Tensor) -> Tensor:
        seen = torch.relu(self.features(image))[:, :, :4, :4].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(seen), seen], dim=1)


def _images(number: int = 3) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).random((number, 1, 8, 8), dtype=np.float32) + 0.1}


def _call(model: nn.Module) -> Any:
    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": model(*map(torch.from_numpy, batch.values())).numpy()}

    return call


def _maps(found: list[Attributed]) -> dict[str, Attributed]:
    return {one.method: one for one in found}


def test_grad_cam_and_gradients_lie_where_the_answer_hangs() -> None:
    found = _maps(gradient_maps(Corner().eval(), _images(), np.ones(3)))
    assert set(found) == {"grad-cam", "integrated-gradients"}
    gradients = found["integrated-gradients"].maps
    assert gradients.shape == (3, 8, 8)
    assert np.abs(gradients[:, 4:]).max() == 0
    assert np.abs(gradients[:, :, 4:]).max() == 0
    assert np.abs(gradients[:, :4, :4]).max() > 0
    assert found["grad-cam"].layer == "features"
    assert found["grad-cam"].maps.min() >= 0


def test_gradients_add_up_to_what_the_score_rose() -> None:
    model, inputs = Corner().eval(), _images()
    maps = _maps(gradient_maps(model, inputs, np.ones(3)))["integrated-gradients"].maps
    image = torch.from_numpy(inputs["image"])
    rise = model(image)[:, 1] - model(image.mean(dim=(0, 2, 3), keepdim=True).expand(1, 1, 8, 8))[:, 1]
    assert np.allclose(maps.sum(axis=(1, 2)), rise.detach().numpy(), atol=1e-4)


def test_occlusion_lies_where_the_answer_hangs_and_needs_no_gradient() -> None:
    inputs = _images()
    inputs["image"][:, :, :4, :4] += 2
    found = occlusion_maps(_call(Corner().eval()), inputs, np.ones(3))
    assert (found.method, found.maps.shape) == ("occlusion", (3, 8, 8))
    assert found.maps[:, :3, :3].min() > 0
    assert np.abs(found.maps[:, 5:, 5:]).max() < 1e-6


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_grad_cam_brings_tokens_back_to_their_grid(pooling: str) -> None:
    torch.manual_seed(0)
    model = vit(image_size=16, patch_size=4, in_channels=1, width=24, depth=2, pooling=pooling).eval()
    image = {"image": np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)}
    places = {place.name: place for place in feature_maps(model, [torch.from_numpy(image["image"])])}
    assert places["norm"][1:] == (4, 4, int(pooling == "token"))
    assert not any("feed_forward.expand" in name for name in places)
    found = _maps(gradient_maps(model, image, np.zeros(2)))["grad-cam"]
    assert found.maps.shape == (2, 16, 16)
    assert found.maps.max() > 0
    # The head reads the class token alone, so that the patches of the last layer have no gradient.
    assert found.layer == ("norm" if pooling == "mean" else "blocks.1.norm1")


@pytest.mark.parametrize("factory", [lstm, gpt])
def test_tokens_are_explained_by_position(factory: Any) -> None:
    torch.manual_seed(0)
    model = factory(vocab_size=50, **({"max_length": 12} if factory is gpt else {})).eval()
    tokens = {"tokens": np.random.default_rng(0).integers(1, 50, (2, 12))}
    targets = np.array([1, 2])
    (found,) = gradient_maps(model, tokens, targets)
    assert (found.method, found.maps.shape) == ("integrated-gradients", (2, 12))
    assert occlusion_maps(_call(model), tokens, targets).maps.shape == (2, 12)


def test_columns_of_a_table_are_explained_one_by_one() -> None:
    model = nn.Linear(5, 3).eval()
    rows = {"x": np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)}
    (found,) = gradient_maps(model, rows, np.full(4, 2))
    weights = model.weight[2].detach().numpy()
    assert np.allclose(found.maps, weights * (rows["x"] - rows["x"].mean(axis=0)), atol=1e-4)
    covered_one_by_one = occlusion_maps(_call(model), rows, np.full(4, 2)).maps
    assert np.allclose(covered_one_by_one, found.maps, atol=1e-4)


def test_explaining_leaves_the_model_as_it_was() -> None:
    model = Corner().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradient_maps(model, _images(), np.ones(3))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not model.features._forward_hooks
    assert not model._forward_hooks


def test_a_model_without_gradients_is_said_to_have_none() -> None:
    class Rounded(Corner):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).detach()

    with pytest.raises(ModelError, match="gradients of the model are not known"):
        gradient_maps(Rounded().eval(), _images(), np.ones(3))


def test_outputs_that_are_no_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \[\d+, 1, 8, 8\] cannot be explained"):
        occlusion_maps(_call(nn.Identity()), _images(), np.zeros(3))


def test_samples_with_four_axes_are_refused() -> None:
    with pytest.raises(ModelError, match="have no grid"):
        covered((3, 4, 8, 8))


def test_covered_parts_reach_to_the_edge() -> None:
    for size in (5, 8, 17, 224):
        assert num_calls((1, size, size)) <= 196
        window, stride = covered((1, size, size))
        assert stride[1] <= window[1]


def test_cosine_of_an_empty_map_is_no_number() -> None:
    found = cosine(np.array([[[1.0, 2.0]], [[0.0, 0.0]]]), np.array([[[2.0, 4.0]], [[1.0, 1.0]]]))
    assert found[0] == pytest.approx(1.0)
    assert np.isnan(found[1])


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, *, extra: str) -> Any:
        raise MissingExtra(f"{module} is not installed", hint=f"pip install 'lissom[{extra}]'")

    monkeypatch.setattr(attribution, "require", missing)
    with pytest.raises(MissingExtra, match="captum"):
        gradient_maps(Corner().eval(), _images(), np.ones(3))


class Positions(nn.Module):
    """Adds the embedding of positions before that of tokens is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.tokens, self.head = nn.Embedding(4, 8), nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.positions(torch.arange(tokens.shape[1])[None])
        return self.head((self.tokens(tokens) + places).mean(dim=1))


def test_the_embedding_of_tokens_is_explained_not_that_of_positions() -> None:
    torch.manual_seed(0)
    (found,) = gradient_maps(Positions().eval(), {"tokens": np.array([[1, 2, 3, 4]])}, np.array([1]))
    assert np.abs(found.maps).min() > 0


def test_a_matrix_of_attention_is_no_feature_map() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.drop, self.norm = nn.Conv2d(1, 8, 4, 4), nn.Dropout(), nn.LayerNorm(8)

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.norm(self.patches(image).flatten(2).transpose(1, 2))
            weights = self.drop((tokens @ tokens.transpose(1, 2)).softmax(dim=-1)[:, None])
            return (weights[:, 0] @ tokens).mean(dim=1)

    places = feature_maps(Attention().eval(), [torch.zeros(1, 1, 16, 16)])
    assert {place.name for place in places} == {"patches", "norm"}


def test_many_samples_are_explained_as_few_are() -> None:
    model, inputs = Corner().eval(), _images(40)
    many = _maps(gradient_maps(model, inputs, np.ones(40)))["grad-cam"]
    few = _maps(gradient_maps(model, {"image": inputs["image"][35:]}, np.ones(5)))["grad-cam"]
    assert np.allclose(many.maps[35:], few.maps, atol=1e-6)
