"""From raw samples to tensors and from scores to shares, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lissom.artifact import PreprocessingStep
from lissom.runtime.preprocess import preprocess
from lissom.runtime.scores import softmax

FLOAT = {"x": "float32"}
numbers = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
batches = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=numbers)
scores = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=numbers)


def step(mean: tuple[float, ...], std: tuple[float, ...], name: str = "x") -> PreprocessingStep:
    return PreprocessingStep(input=name, mean=mean, std=std)


@given(batches)
def test_without_steps_the_numbers_stay(batch: np.ndarray) -> None:
    found = preprocess({"x": batch}, (), FLOAT)["x"]
    assert np.array_equal(found, batch)
    assert found.flags.c_contiguous


@given(batches, numbers, st.floats(0.0625, 128, width=32))
def test_a_step_subtracts_and_divides(batch: np.ndarray, mean: float, std: float) -> None:
    before = batch.copy()
    found = preprocess({"x": batch}, (step((mean,), (std,)),), FLOAT)["x"]
    assert found.dtype == np.float32
    wanted = (batch.astype(np.float64) - mean) / std
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5 * (1 + abs(mean)) / std)
    assert np.array_equal(batch, before)


@given(batches)
def test_a_step_and_its_opposite_give_the_batch_back(batch: np.ndarray) -> None:
    found = preprocess({"x": batch}, (step((3.0,), (4.0,)), step((-0.75,), (0.25,))), FLOAT)["x"]
    assert np.allclose(found, batch, atol=1e-3)


@given(batches, st.data())
def test_values_for_channels_apply_to_the_second_axis(batch: np.ndarray, data: st.DataObject) -> None:
    channels = batch.shape[1]
    mean = tuple(data.draw(st.lists(numbers, min_size=channels, max_size=channels)))
    std = tuple(data.draw(st.lists(st.floats(0.5, 10, width=32), min_size=channels, max_size=channels)))
    found = preprocess({"x": batch}, (step(mean, std),), FLOAT)["x"]
    for channel in range(channels):
        alone = preprocess(
            {"x": batch[:, channel : channel + 1]},
            (step(mean[channel : channel + 1], std[channel : channel + 1]),),
            FLOAT,
        )
        assert np.allclose(found[:, channel : channel + 1], alone["x"], rtol=1e-6)


@given(batches)
def test_a_sample_does_not_depend_on_its_batch(batch: np.ndarray) -> None:
    steps = (step((2.0,), (4.0,)),)
    whole = preprocess({"x": batch}, steps, FLOAT)["x"]
    alone = [preprocess({"x": batch[index : index + 1]}, steps, FLOAT)["x"] for index in range(len(batch))]
    assert np.array_equal(whole, np.concatenate(alone))


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "float64", "float16", "bool"])
def test_raw_samples_may_have_any_type(kind: str) -> None:
    raw = np.arange(2).reshape(1, 2).astype(kind)
    found = preprocess({"x": raw}, (step((0.5,), (2.0,)),), FLOAT)["x"]
    assert found.dtype == np.float32
    assert np.allclose(found, [[-0.25, 0.25]])


def test_lists_are_taken_as_arrays() -> None:
    assert preprocess({"x": [[1, 2], [3, 4]]}, (), FLOAT)["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("kind", ["int64", "int32", "bool"])
def test_tokens_stay_whole_numbers(kind: str) -> None:
    raw = np.array([[0, 1], [1, 1]])
    found = preprocess({"x": raw}, (), {"x": kind})["x"]
    assert found.dtype.name == kind
    assert np.array_equal(found, raw)


def test_half_precision_is_computed_in_single() -> None:
    raw = np.array([[60_000.0, 60_001.0]], dtype=np.float32)
    found = preprocess({"x": raw}, (step((60_000.0,), (1.0,)),), {"x": "float16"})["x"]
    assert found.dtype == np.float16
    assert found.tolist() == [[0.0, 1.0]]


def test_a_step_touches_its_own_input_alone() -> None:
    raw = {"x": np.ones((1, 2), dtype=np.float32), "y": np.ones((1, 2), dtype=np.float32)}
    found = preprocess(raw, (step((1.0,), (1.0,), name="y"),), {"x": "float32", "y": "float32"})
    assert found["x"].tolist() == [[1, 1]]
    assert found["y"].tolist() == [[0, 0]]


@given(scores)
def test_shares_are_positive_and_add_to_one(logits: np.ndarray) -> None:
    shares = softmax(logits)
    assert shares.dtype == np.float32
    assert shares.shape == logits.shape
    assert (shares >= 0).all()
    assert np.allclose(shares.sum(axis=-1), 1, atol=1e-5)


@given(scores, st.integers(-500, 500))
def test_what_is_added_to_all_scores_does_not_change_the_shares(logits: np.ndarray, shift: int) -> None:
    wide = logits.astype(np.float64)
    assert np.allclose(softmax(wide + shift), softmax(wide), atol=1e-6)


@given(scores)
def test_the_highest_score_has_the_highest_share(logits: np.ndarray) -> None:
    best = np.take_along_axis(softmax(logits), logits.argmax(axis=-1)[:, None], axis=-1)[:, 0]
    assert (best == softmax(logits).max(axis=-1)).all()


def test_extreme_scores_neither_overflow_nor_warn() -> None:
    assert softmax(np.array([[1e30, -1e30], [3e38, 3e38]], dtype=np.float32)).tolist() == [[1, 0], [0.5, 0.5]]
