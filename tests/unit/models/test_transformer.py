"""Transformers: published sizes, padding that changes nothing, and text that a cache does not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom.models.bert import bert, bert_mlm
from lissom.models.gpt import Gpt, gpt
from lissom.models.vit import vit

SMALL: dict[str, Any] = {"width": 12, "depth": 2, "num_heads": 3}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 20, "max_length": 16}


def made(factory: Callable[..., nn.Module], **kwargs: Any) -> nn.Module:
    """A model whose weights are spread, so that its answers differ."""
    torch.manual_seed(0)
    model = factory(**kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def small_gpt() -> Gpt:
    model = made(gpt, **TEXT)
    assert isinstance(model, Gpt)
    return model


def tokens(*shape: int, low: int = 1, high: int = 20, seed: int = 1) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pooling", ["mean", "token"])
@pytest.mark.parametrize(("image_size", "patch_size"), [(8, 4), (9, 3), (4, 4)])
def test_vit_gives_one_logit_for_each_class(pooling: str, image_size: int, patch_size: int) -> None:
    model = vit(**SMALL, image_size=image_size, patch_size=patch_size, num_classes=5, pooling=pooling)
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 5)


def test_vit_sees_where_a_patch_is() -> None:
    model = made(vit, **SMALL, image_size=8, patch_size=4)
    image = torch.randn(1, 3, 8, 8)
    assert not torch.allclose(model(image.flip(-1)), model(image), atol=1e-3)


@pytest.mark.parametrize("factory", [bert, bert_mlm])
def test_padding_changes_nothing_for_the_tokens(factory: Callable[..., nn.Module]) -> None:
    model = made(factory, **TEXT)
    text = tokens(3, 5)
    found = model(nn.functional.pad(text, (0, 6)))
    found = found[:, :5] if factory is bert_mlm else found
    assert torch.allclose(found, model(text), atol=1e-5)


@pytest.mark.parametrize("factory", [bert, bert_mlm])
def test_text_that_is_all_padding_gives_numbers(factory: Callable[..., nn.Module]) -> None:
    assert torch.isfinite(made(factory, **TEXT)(torch.zeros(2, 4, dtype=torch.int64))).all()


def test_bert_sees_the_order_of_tokens() -> None:
    model = made(bert, **TEXT)
    assert not torch.allclose(model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[1, 3, 2]])), atol=1e-3)


def test_bert_mlm_gives_a_score_for_every_token_at_every_position() -> None:
    model = bert_mlm(**TEXT)
    assert model(tokens(2, 7)).shape == (2, 7, 20)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert shapes.count((20, 12)) == 1


def test_gpt_does_not_see_the_future() -> None:
    model, text = small_gpt(), tokens(2, 8)
    changed = text.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 20
    before, after = model(text), model(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-2)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_generated_text_is_that_of_computing_everything_again(length: int) -> None:
    model, text = small_gpt(), tokens(3, length)
    found = model.generate(text, 16 - length)
    again = text
    with torch.inference_mode():
        for _ in range(16 - length):
            again = torch.cat([again, model(again)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, again)
    assert len(found[:, length:].unique()) > 1


def test_drawn_text_is_decided_by_the_seed_and_leaves_the_callers_random_numbers_alone() -> None:
    model, text = small_gpt(), tokens(2, 3)
    before = torch.get_rng_state()
    one, same, other = (model.generate(text, 10, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_low_temperature_takes_the_most_likely_token() -> None:
    model, text = small_gpt(), tokens(2, 3)
    assert torch.equal(model.generate(text, 6, temperature=1e-4), model.generate(text, 6))


def test_generating_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = small_gpt().train()
    model.generate(tokens(1, 2), 2)
    assert model.training
    assert all(module.training for module in model.modules())


def test_no_new_tokens_are_the_text() -> None:
    text = tokens(2, 3)
    assert torch.equal(small_gpt().generate(text, 0), text)


@pytest.mark.parametrize(
    ("text", "num_new", "options", "message"),
    [
        ((1, 10), 7, {}, "17 tokens are more than max_length 16"),
        ((1, 0), 2, {}, "at least one token"),
        ((1, 2), -1, {}, "no number below zero"),
        ((1, 2), 1, {"temperature": -1.0}, "no number below zero"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    text: tuple[int, int], num_new: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small_gpt().generate(tokens(*text), num_new, **options)


@pytest.mark.parametrize("factory", [bert, bert_mlm, gpt])
def test_text_longer_than_max_length_is_refused(factory: Callable[..., nn.Module]) -> None:
    model = factory(**TEXT)
    assert torch.isfinite(model(tokens(1, 16))).all()
    with pytest.raises(ValueError, match="17 tokens are more than max_length 16"):
        model(tokens(1, 17))


@pytest.mark.parametrize("factory", [vit, bert, bert_mlm, gpt])
def test_a_width_that_heads_do_not_divide_is_refused(factory: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="width 16 is not divisible by num_heads 3"):
        factory(width=16, num_heads=3)
    with pytest.raises(ValueError, match="depth is 0; it must be at least 1"):
        factory(depth=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_size": 30}, "image_size 30 is not divisible by patch_size 4"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"pooling": "tokn"}, r"unknown pooling 'tokn'; did you mean token\?"),
    ],
)
def test_patches_that_do_not_tile_the_image_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vit(**kwargs)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the image is 8x12; the model was built for 8x8"):
        vit(**SMALL, image_size=8)(torch.zeros(1, 3, 8, 12))
