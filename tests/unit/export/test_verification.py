"""Parity: what passes, what fails, and on which inputs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.small import blobs

from lissom.artifact import Signature, TensorSpec
from lissom.cli.output import show
from lissom.cli.views import verified
from lissom.errors import ArtifactError
from lissom.export import verification
from lissom.export.verification import (
    LIMITS,
    UNLABELLED,
    Parity,
    compare,
    failing_batch,
    fuzz_inputs,
    limit_of,
    verify,
)
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.runtime.base import check_tensor
from lissom.runtime.layout import Layout
from lissom.runtime.onnx_runtime import OnnxRuntime

EXACT, INT8 = LIMITS["float32"], LIMITS["int8"]
SCORES = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
rows = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


@given(rows, st.sampled_from(sorted(LIMITS)))
def test_an_output_is_like_itself(scores: np.ndarray, precision: str) -> None:
    found = compare("y", scores, scores.copy(), LIMITS[precision])
    assert found.passed
    assert (found.max_abs_error, found.mean_abs_error, found.sqnr_db) == (0, 0, None)
    assert found.cosine == pytest.approx(1)
    assert found.top1_agreement == 1


def test_the_figures_are_what_they_are_called() -> None:
    wanted = np.array([[1.0, 2.0], [4.0, 3.0]], dtype=np.float32)
    found = compare("y", wanted, wanted + np.array([[0.5, 0.0], [0.0, 2.0]], dtype=np.float32), INT8)
    assert found.output == "y"
    assert found.max_abs_error == 2.0
    assert found.mean_abs_error == 2.5 / 4
    assert found.sqnr_db == pytest.approx(10 * np.log10(30 / 4.25))
    assert found.cosine == pytest.approx((1.5 + 4 + 16 + 15) / np.sqrt(30 * (2.25 + 4 + 16 + 25)))
    assert found.top1_agreement == 0.5
    assert found.max_relative_error == 2.0 / 4.0
    assert found.mean_relative_error == 2.5 / 10.0
    assert found.limit == "cosine >= 0.98, SQNR >= 13 dB, top-1 >= 97.0%"
    assert str(EXACT).startswith("error <= 0.0001 of the output's range, cosine")


@pytest.mark.parametrize(("error", "passed"), [(1e-6, True), (0.9e-4, True), (1.1e-4, False), (1e-2, False)])
def test_the_largest_error_is_held_to_a_share_of_the_range(error: float, passed: bool) -> None:
    found = SCORES.astype(np.float64)
    found[0, 0] += error * np.abs(SCORES).max()
    assert compare("y", SCORES.astype(np.float64), found, EXACT).passed is passed


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("precision", LIMITS)
def test_the_unit_of_an_output_does_not_matter(scale: float, precision: str) -> None:
    noise = np.random.default_rng(1).normal(size=SCORES.shape) * np.float64(1e-3)
    one = compare("y", SCORES.astype(np.float64), SCORES + noise, LIMITS[precision])
    scaled = compare("y", SCORES * np.float64(scale), (SCORES + noise) * scale, LIMITS[precision])
    assert scaled.passed is one.passed
    assert scaled.sqnr_db == pytest.approx(one.sqnr_db)


def test_lower_precisions_are_held_to_less() -> None:
    ordered = [LIMITS[name] for name in ("float32", "float16", "bfloat16", "int8")]
    for field in ("min_cosine", "min_sqnr_db", "min_agreement"):
        values = [getattr(limit, field) for limit in ordered]
        assert values == sorted(values, reverse=True)
    assert [limit.fuzz for limit in ordered] == [True, True, True, False]


@pytest.mark.parametrize(("noise", "passed"), [(0.01, True), (0.15, True), (0.4, False)])
def test_a_quantized_output_is_judged_by_its_noise(noise: float, passed: bool) -> None:
    confident = SCORES + 30 * np.eye(5, dtype=np.float32)[SCORES.argmax(axis=1)] * 0
    error = np.random.default_rng(2).normal(size=SCORES.shape).astype(np.float32) * noise
    agreed = np.where(
        (confident + error).argmax(axis=1)[:, None] == confident.argmax(axis=1)[:, None], error, 0
    )
    assert compare("y", confident, confident + agreed, INT8).passed is passed


def test_a_label_that_changes_too_often_fails() -> None:
    wanted = np.tile(np.array([[1.0, 1.01]], dtype=np.float32), (100, 1))
    found = wanted.copy()
    found[:2] = [[1.01, 1.0]]
    assert compare("y", wanted, found, INT8).passed
    found[:4] = [[1.01, 1.0]]
    failed = compare("y", wanted, found, INT8)
    assert not failed.passed
    assert failed.top1_agreement == 0.96


def test_ties_within_rounding_count_as_the_same_label() -> None:
    wanted = np.tile(np.array([[1.0, 1.0 + 1.2e-7, -3.0]], dtype=np.float32), (10, 1))
    found = np.tile(np.array([[1.0 + 1.2e-7, 1.0, -3.0]], dtype=np.float32), (10, 1))
    assert wanted[0].argmax() != found[0].argmax()
    parity = compare("y", wanted, found, EXACT)
    assert parity.top1_agreement == 1
    assert parity.passed


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2, 3), (6, 2, 3, 4)])
def test_outputs_of_every_rank_are_compared(shape: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(0).normal(size=shape)
    assert compare("y", wanted, wanted, EXACT).passed
    assert not compare("y", wanted, -wanted, EXACT).passed
    assert compare("y", wanted, wanted[::-1], INT8).top1_agreement <= 1


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_output_that_is_no_number_fails(precision: str, value: float) -> None:
    found = SCORES.copy()
    found[3, 2] = value
    assert compare("y", SCORES, found, LIMITS[precision]).passed is False


@pytest.mark.parametrize("constant", [0.0, 1.0, -5.0])
@pytest.mark.parametrize("precision", LIMITS)
def test_an_output_that_never_changes_is_like_itself_and_unlike_another(
    constant: float, precision: str
) -> None:
    wanted = np.full((20, 3), constant, dtype=np.float32)
    assert compare("y", wanted, wanted.copy(), LIMITS[precision]).passed
    assert not compare("y", wanted, wanted + 10, LIMITS[precision]).passed
    assert not compare("y", wanted + 1, np.zeros_like(wanted), LIMITS[precision]).passed


def test_where_the_parent_gives_zeros_relative_errors_are_absolute() -> None:
    silent = np.zeros((4, 3), dtype=np.float32)
    found = compare("y", silent, silent + np.float32([0, 0.25, 0.5]), INT8)
    assert (found.max_relative_error, found.mean_relative_error) == (0.5, 0.25)
    same = compare("y", silent, silent, EXACT)
    assert (same.max_relative_error, same.mean_relative_error, same.passed) == (0.0, 0.0, True)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_relative_errors_do_not_depend_on_the_scale(scale: float) -> None:
    wanted, found = SCORES.astype(np.float64), SCORES.astype(np.float64) + 0.01
    plain, scaled = compare("y", wanted, found, INT8), compare("y", wanted * scale, found * scale, INT8)
    assert scaled[-2:] == pytest.approx(plain[-2:])
    assert plain.max_relative_error == pytest.approx(0.01 / np.abs(SCORES).max())


@pytest.mark.parametrize("shape", [(20, 4), (20,), (19, 5), (20, 5, 1)])
def test_an_output_of_another_shape_fails(shape: tuple[int, ...]) -> None:
    found = compare("y", SCORES[:20], np.ones(shape, dtype=np.float32), INT8)
    assert not found.passed
    assert found.max_abs_error is None
    assert found.max_relative_error is None
    assert found.top1_agreement == 0


@pytest.mark.parametrize("kind", ["nan", "infinite", "silent parent", "silent child"])
def test_a_failed_parity_can_be_written_as_json(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted, found = SCORES.copy(), SCORES.copy()
    if kind.startswith("silent"):
        (wanted if kind == "silent parent" else found)[:] = 0
    else:
        found[0, 0] = np.nan if kind == "nan" else np.inf
    parity = compare("y", wanted, found, EXACT)
    assert not parity.passed
    show("verify", verified([parity], []), as_json=True)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["ok"] is False
    assert document["gates"][0]["state"] == "fail"


SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", 1, 2, 2)),
        TensorSpec(name="gain", dtype="float32", shape=("batch",)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 3)),),
)
LIKE = {
    "x": np.linspace(-3, 5, 40, dtype=np.float32).reshape(10, 1, 2, 2),
    "gain": np.ones(10, dtype=np.float32),
}


def test_fuzz_inputs_fit_the_signature_and_include_a_batch_of_one() -> None:
    batches = fuzz_inputs(SIGNATURE, LIKE)
    assert {len(batch["x"]) for batch in batches} == {1, 3}
    for batch in batches:
        sizes: dict[str, int] = {}
        for spec in SIGNATURE.inputs:
            check_tensor(spec, batch[spec.name], sizes)
        assert np.isfinite(batch["x"]).all()


def test_fuzz_inputs_are_zeros_both_extremes_and_noise_between_them() -> None:
    zeros, low, high, noise = fuzz_inputs(SIGNATURE, LIKE, sizes=(2,))
    assert (zeros["x"] == 0).all()
    assert (low["x"] == -3).all()
    assert (high["x"] == 5).all()
    assert -3 <= noise["x"].min() < noise["x"].max() <= 5
    assert len(np.unique(noise["x"])) == 8


def test_fuzz_inputs_are_the_same_each_time() -> None:
    one, other = fuzz_inputs(SIGNATURE, LIKE), fuzz_inputs(SIGNATURE, LIKE)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)
    assert not np.array_equal(fuzz_inputs(SIGNATURE, LIKE, seed=1)[3]["x"], one[3]["x"])


def test_fuzz_inputs_of_whole_numbers_stay_within_the_data() -> None:
    signature = Signature(inputs=(TensorSpec(name="x", dtype="int64", shape=("batch", 4)),), outputs=())
    like = {"x": np.arange(3, 23).reshape(5, 4)}
    for batch in fuzz_inputs(signature, like):
        assert batch["x"].dtype == np.int64
        assert batch["x"].min() >= 3
        assert batch["x"].max() <= 22


TOKENS = Signature(
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="mask", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="image", dtype="float32", shape=("batch", 3, "height", 4)),
    ),
    outputs=(),
)
SENTENCES = {
    "tokens": np.random.default_rng(0).integers(5, 30, (50, 12)),
    "mask": np.random.default_rng(1).integers(0, 2, (50, 12)),
    "image": np.random.default_rng(2).normal(size=(50, 3, 2, 4)).astype(np.float32),
}


def test_every_axis_that_may_vary_is_varied_down_to_one() -> None:
    batches = fuzz_inputs(TOKENS, SENTENCES)
    for batch in batches:
        sizes: dict[str, int] = {}
        for spec in TOKENS.inputs:
            check_tensor(spec, batch[spec.name], sizes)  # one name, one size
    shapes = [(*batch["tokens"].shape, batch["image"].shape[2]) for batch in batches[::4]]
    assert shapes == [(1, 12, 2), (3, 12, 2), (1, 1, 2), (1, 3, 2), (1, 12, 1)]


def test_tokens_and_masks_stay_inside_the_data() -> None:
    batches = fuzz_inputs(TOKENS, SENTENCES)
    for name, low, high in (("tokens", 5, 29), ("mask", 0, 1)):
        values = np.concatenate([batch[name].ravel() for batch in batches])
        assert (values.min(), values.max()) == (low, high)
        assert len(np.unique(batches[3][name])) > 1  # noise
    assert all((batch["tokens"] == 5).all() for batch in batches[::4])  # 0 is no token of these data


def test_sizes_larger_than_in_the_data_are_not_tried() -> None:
    short = SENTENCES | {"tokens": SENTENCES["tokens"][:, :2], "mask": SENTENCES["mask"][:, :2]}
    assert {batch["tokens"].shape[1] for batch in fuzz_inputs(TOKENS, short)} == {1, 2}


DATA = blobs(120, shape=(1, 2, 2), num_classes=3)


class Shifted(OnnxRuntime):
    """Answers a little otherwise, and notes how many samples each call has."""

    shift: float | np.ndarray = 0.0

    def _infer_impl(self, inputs: Any) -> dict[str, np.ndarray]:
        self.__dict__.setdefault("sizes", []).append(len(inputs["image"]))
        found = super()._infer_impl(inputs)
        return {name: (array + self.shift).astype(array.dtype) for name, array in found.items()}


def pair(folder: Path, shift: float | np.ndarray = 0.0, **changes: Any) -> tuple[OnnxRuntime, Shifted]:
    parent = OnnxRuntime(tiny_onnx_artifact(folder / "parent", name="parent"), threads=1)
    child = Shifted(tiny_onnx_artifact(folder / "child", name="child", **changes), threads=1)
    child.shift = shift
    return parent, child


def test_two_artifacts_that_compute_the_same_pass(tmp_path: Path) -> None:
    parent, child = pair(tmp_path)
    (found,) = verify(parent, child, DATA)
    assert isinstance(found, Parity)
    assert (found.output, found.passed, found.max_abs_error) == ("logits", True, 0.0)
    num_select = len(DATA.indices["select"])
    assert child.sizes == [num_select] + [1] * 4 + [3] * 4


def test_a_conversion_must_hold_on_fuzz_inputs_and_a_quantization_need_not(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, precision="int8")
    assert verify(parent, child, DATA)[0].passed
    assert child.sizes == [len(DATA.indices["select"])]


@pytest.mark.parametrize("shift", [0.1, np.array([0, 0, 0.01], dtype=np.float32)])
def test_a_conversion_that_computes_something_else_fails(tmp_path: Path, shift: Any) -> None:
    assert not verify(*pair(tmp_path, shift=shift), DATA)[0].passed


def test_an_engine_for_one_size_is_given_one_sample_at_a_time(tmp_path: Path) -> None:
    parent, child = pair(tmp_path)
    child.max_batch = 1
    verify(parent, child, DATA)
    assert set(child.sizes) == {1}
    assert len(child.sizes) == len(DATA.indices["select"]) + 4


def test_without_labels_the_calibrate_split_is_compared(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, precision="int8")
    data = Data("plain", Dataset({"image": DATA.dataset.inputs["image"][:70]}))
    verify(parent, child, data)
    assert child.sizes == [64, 6]


class Undefined(OnnxRuntime):
    """Has no answer to three samples, and none that is a number to zeros."""

    def _infer_impl(self, inputs: Any) -> dict[str, np.ndarray]:
        if len(inputs["image"]) == 3:
            raise RuntimeError("kernel size cannot be greater than input size")
        found = super()._infer_impl(inputs)
        return found if inputs["image"].any() else {"logits": np.full_like(found["logits"], np.nan)}


def test_made_up_inputs_that_the_parent_cannot_answer_are_no_test(tmp_path: Path) -> None:
    _, child = pair(tmp_path)
    parent = Undefined(tiny_onnx_artifact(tmp_path / "undefined", name="parent"), threads=1)
    assert verify(parent, child, DATA)[0].passed
    assert child.sizes == [len(DATA.indices["select"])] + [1] * 3


class Faulty(Shifted):
    """Is wrong where every value is the lowest, and a little off where it is one sample."""

    def _infer_impl(self, inputs: Any) -> dict[str, np.ndarray]:
        array = inputs["image"]
        self.shift = 0.3 * (array.min() == array.max() < 0) + 0.1 * (len(array) == 1)
        return super()._infer_impl(inputs)


def test_the_failing_batch_is_the_one_with_the_largest_error(tmp_path: Path) -> None:
    parent, _ = pair(tmp_path)
    child = Faulty(tiny_onnx_artifact(tmp_path / "faulty", name="child"), threads=1)
    assert not verify(parent, child, DATA)[0].passed
    worst = failing_batch(parent, child, DATA)["image"]
    assert worst.shape == (1, 1, 2, 2)
    assert (worst == DATA.tensors("select")["image"].min()).all()


def test_without_a_failing_batch_any_is_given(tmp_path: Path) -> None:
    parent, child = pair(tmp_path, precision="int8")
    assert len(failing_batch(parent, child, DATA)["image"]) == len(DATA.indices["select"])


def test_limits_are_those_of_the_precision_and_of_data_without_labels() -> None:
    plain = Data("plain", Dataset({"image": DATA.dataset.inputs["image"]}))
    assert limit_of("int8", DATA) == INT8
    assert limit_of("int8", plain) == UNLABELLED
    assert limit_of("float32", plain) == EXACT


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": (TensorSpec(name="scores", dtype="float32", shape=("batch", 3)),)},
        {"inputs": (TensorSpec(name="image", dtype="float32", shape=("batch", 4)),)},
        {"outputs": (TensorSpec(name="logits", dtype="float16", shape=("batch", 3)),)},
    ],
)
def test_signatures_that_differ_cannot_be_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    parent, child = pair(tmp_path)
    child.signature = child.signature.model_copy(update=change)
    with pytest.raises(ArtifactError, match="'parent' and 'child' have different signatures: ") as caught:
        verify(parent, child, DATA)
    assert "image: float32['batch', 1, 2, 2]" in caught.value.message


def at_once(wanted: np.ndarray, found: np.ndarray) -> tuple[float, ...]:
    """Largest and mean error, cosine, SQNR and agreement by their definitions, over whole arrays."""
    reference, other = wanted.astype(np.float64), found.astype(np.float64)
    error = other - reference
    cosine = np.vdot(reference, other) / (np.linalg.norm(reference) * np.linalg.norm(other))
    sqnr = 10 * np.log10(np.sum(reference**2) / np.sum(error**2))
    agreement = np.mean(reference.argmax(axis=-1) == other.argmax(axis=-1))
    return np.abs(error).max(), np.abs(error).mean(), cosine, sqnr, agreement


@pytest.mark.parametrize("values", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("shape", [(200, 5), (50, 4, 10)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_figures_do_not_depend_on_how_many_values_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch, values: int, shape: tuple[int, ...], dtype: Any
) -> None:
    monkeypatch.setattr(verification, "_VALUES_AT_ONCE", values)
    generator = np.random.default_rng(4)
    wanted = generator.normal(3, 20, shape).astype(dtype)
    found = (wanted + generator.normal(0, 2, shape)).astype(dtype)
    parity = compare("y", wanted, found, INT8)
    assert parity[1:6] == pytest.approx(at_once(wanted, found), rel=1e-9)


@pytest.mark.parametrize("place", [0, 99, 199])
def test_an_infinity_in_any_sample_leaves_only_the_agreement(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(verification, "_VALUES_AT_ONCE", 50)
    wanted, found = SCORES.copy(), SCORES.copy()
    wanted[place, 0] = found[place, 0] = np.inf
    parity = compare("y", wanted, found, EXACT)
    assert parity[1:7] == (None, None, None, None, 199 / 200, False)


class Wide:
    """Answers each sample with many numbers, as a language model does."""

    max_batch = None

    def __init__(self, artifact: Any) -> None:
        outputs = (TensorSpec(name="logits", dtype="float32", shape=("batch", 16, 500)),)
        self.artifact = artifact
        self.signature = artifact.manifest.signature.model_copy(update={"outputs": outputs})
        self.layout = Layout(self.signature)

    def infer_batch(self, inputs: Any) -> dict[str, np.ndarray]:
        rows = inputs["image"].reshape(-1, 4).sum(axis=1)
        return {"logits": np.sin(rows[:, None] + np.arange(8000, dtype=np.float32)).reshape(-1, 16, 500)}


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    runtime: Any = Wide(tiny_onnx_artifact(tmp_path / "tiny", precision="int8"))
    peaks = []
    for num_samples in (64, 1024):
        images = np.random.default_rng(0).normal(size=(num_samples, 1, 2, 2)).astype(np.float32)
        data = Data("plain", Dataset({"image": images}))
        data.tensors("calibrate")
        tracemalloc.start()
        assert verify(runtime, runtime, data)[0].passed
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
