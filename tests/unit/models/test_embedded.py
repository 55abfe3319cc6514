"""Data that come with lissom: what they hold, that they hold still, and a cache that heals."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lissom.errors import DataError
from lissom.models import embedded, lettering
from lissom.models.data_sources import load_data
from lissom.models.dataset import IGNORED, SPLITS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LISSOM_CACHE", str(folder))
    return folder


def test_preprocessing_brings_scans_of_digits_to_one() -> None:
    data = load_data("digits")
    assert data.raw("train")["image"].max() == 16
    assert data.tensors("train")["image"].max() == 1
    assert len(data.dataset.inputs["image"]) == 1797


def test_glyphs_have_36_classes_of_one_size() -> None:
    data = load_data("glyphs?samples=720")
    image = data.dataset.inputs["image"]
    assert image.shape == (720, 3, 32, 32)
    assert image.dtype == np.uint8
    assert data.dataset.label_names == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert data.dataset.labels is not None
    assert set(np.bincount(data.dataset.labels).tolist()) == {20}
    assert data.overlap() == {}


def test_glyphs_reach_the_model_with_mean_0_and_deviation_1() -> None:
    tensor = load_data("glyphs?samples=720").tensors("train")["image"]
    assert tensor.mean(axis=(0, 2, 3)) == pytest.approx(0, abs=1e-4)
    assert tensor.std(axis=(0, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_a_smaller_set_of_glyphs_is_the_beginning_of_a_larger_one() -> None:
    many, labels = lettering.draw_characters(num_samples=800, seed=3)
    few, few_labels = lettering.draw_characters(num_samples=100, seed=3)
    assert np.array_equal(many[:100], few)
    assert np.array_equal(labels[:100], few_labels)
    assert not np.array_equal(lettering.draw_characters(num_samples=100, seed=4)[0], few)


def test_every_character_fits_its_mask_and_differs_from_every_other() -> None:
    masks = lettering._masks()
    border = np.concatenate([masks[:, :, [0, -1]].ravel(), masks[..., [0, -1]].ravel()])
    assert border.max() == 0
    for font in masks:
        flat = font.reshape(len(font), -1)
        distance = np.abs(flat[:, None] - flat[None]).sum(axis=-1) + 1e9 * np.eye(len(font))
        assert distance.min() > 20


def test_glyphs_are_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embedded.glyphs(samples=50)
    monkeypatch.setattr(lettering, "draw_characters", lambda **_: pytest.fail("drawn twice"))
    second = embedded.glyphs(samples=50)
    assert np.array_equal(first.inputs["image"], second.inputs["image"])
    (kept,) = cache.iterdir()
    assert kept.suffix == ".npz"


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_is_made_again(cache: Path, damage: bytes | None) -> None:
    first = embedded.glyphs(samples=50)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-5000] if damage is None else damage)
    assert np.array_equal(embedded.glyphs(samples=50).inputs["image"], first.inputs["image"])
    with np.load(kept) as file:
        assert len(file["image"]) == 50
    assert list(cache.iterdir()) == [kept]


def test_another_seed_or_version_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.glyphs(samples=36)
    embedded.glyphs(samples=36, seed=1)
    monkeypatch.setattr(embedded, "version", lambda name: "0")
    embedded.glyphs(samples=36)
    assert len(list(cache.iterdir())) == 3


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    assert len(embedded.glyphs(samples=36).inputs["image"]) == 36
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("query", ["samples=0", "samples=many", "samples=1.5", "seed=-1", "samples=true"])
def test_glyphs_refuse_numbers_that_are_none(query: str) -> None:
    with pytest.raises(DataError, match="must be a whole number of at least"):
        load_data(f"glyphs?{query}")


def test_topics_are_13_classes_of_text_and_none_is_missing_in_a_split() -> None:
    data = load_data("topics")
    tokens = data.dataset.inputs["tokens"]
    assert tokens.shape == (935, 256)
    assert 0 <= tokens.min() <= tokens.max() < 128
    assert data.num_classes == 13
    assert {split: len(index) for split, index in data.indices.items()} == {
        "train": 564,
        "calibrate": 96,
        "select": 145,
        "report": 130,
    }
    assert [spec.dtype for spec in data.input_specs] == ["int64"]
    assert len(np.unique(tokens, axis=0)) == 935
    data.check_classes(SPLITS)


def test_topics_may_be_shorter() -> None:
    short, long = load_data("topics?length=40"), load_data("topics")
    assert short.dataset.inputs["tokens"].shape[1] == 40
    assert len(np.unique(short.dataset.inputs["tokens"], axis=0)) == len(short.dataset.inputs["tokens"])
    assert short.dataset.label_names == long.dataset.label_names


@pytest.mark.parametrize("length", [128, 500])
def test_the_label_of_each_character_is_the_next_one(length: int) -> None:
    data = load_data(f"topics-text?length={length}")
    tokens, labels = data.dataset.inputs["tokens"], data.dataset.labels
    assert labels is not None
    assert data.kind == "tokens"
    assert tokens.shape == labels.shape == (len(tokens), length)
    assert np.array_equal(tokens[:, 1:], labels[:, :-1])
    assert data.overlap() == {}
    assert len(np.unique(tokens, axis=0)) == len(tokens)


def test_running_text_fills_every_split() -> None:
    data = load_data("topics-text")
    assert {split: len(index) for split, index in data.indices.items()} == {
        "train": 1952,
        "calibrate": 240,
        "select": 368,
        "report": 352,
    }


def test_masked_characters_are_those_of_the_running_text() -> None:
    text, data = load_data("topics-text").dataset, load_data("topics-masked")
    tokens, labels = data.dataset.inputs["tokens"], data.dataset.labels
    assert labels is not None
    assert data.kind == "tokens"
    chosen = labels != IGNORED
    assert np.array_equal(np.where(chosen, labels, tokens), text.inputs["tokens"])
    assert set(chosen.sum(axis=1)) == {19}  # 15 % of 128
    assert data.overlap() == {}
    assert {split: len(index) for split, index in data.indices.items()} == {
        split: len(index) for split, index in load_data("topics-text").indices.items()
    }


def test_of_the_chosen_characters_most_are_masked_some_replaced_and_some_stay() -> None:
    dataset = load_data("topics-masked").dataset
    assert dataset.labels is not None
    chosen = dataset.labels != IGNORED
    given, wanted = dataset.inputs["tokens"][chosen], dataset.labels[chosen]
    assert (given == 127).mean() == pytest.approx(0.8, abs=0.01)
    assert (given == wanted).mean() == pytest.approx(0.1, abs=0.01)
    replaced = given[(given != 127) & (given != wanted)]
    assert len(replaced) / len(given) == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(replaced)) == 95
    assert (wanted != 127).all()


def test_padding_is_not_masked_and_a_window_is_masked_as_if_it_were_alone() -> None:
    window = np.array([*range(60, 80), *[0] * 20])
    tokens, labels = embedded._masked(window)
    assert (tokens[20:] == 0).all()
    assert (labels[20:] == IGNORED).all()
    assert (labels != IGNORED).sum() == 3
    again = embedded._masked(window)
    assert np.array_equal(tokens, again[0])
    assert np.array_equal(labels, again[1])


@pytest.mark.parametrize(
    "source",
    ["topics?length=0", "topics-text?length=1", "topics-text?length=4000", "topics-masked?length=1"],
)
def test_lengths_out_of_range_are_refused(source: str) -> None:
    with pytest.raises(DataError, match="the option length is"):
        load_data(source)


def test_the_text_is_small_and_has_its_licence_beside_it() -> None:
    folder = resources.files("lissom.models") / "topics"
    assert len((folder / "topics.json.xz").read_bytes()) < 250_000
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (folder / "LICENSE").read_text()
