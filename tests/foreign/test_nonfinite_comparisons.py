"""NaN and infinity are part of every comparison: what is not finite on one side alone is not equal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import tiny_logits, tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.errors import ArtifactError
from lissom.export.verification import LIMITS, compare
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.evaluation import evaluate, judge, score_split
from lissom.models.tasks import task_of
from lissom.runtime.base import open_runtime
from lissom.runtime.differences import difference
from lissom.runtime.onnx_runtime import OnnxRuntime
from lissom.runtime.probe import probe_error

NAN, INF = np.nan, np.inf
ONE_SIDED = {
    "a NaN where a number was": ([1, 2, 3], [1, NAN, 3], 1, 0.0),
    "a number where NaN was": ([1, NAN, 3], [1, 2, 3.5], 1, 0.5),
    "an infinity where a number was": ([1, 2, 3], [INF, 2, -INF], 2, 0.0),
    "infinities of two signs": ([INF, -INF, 0], [-INF, -INF, 0], 1, 0.0),
    "NaN where an infinity was": ([INF, 1, 0], [NAN, 1, 0], 1, 0.0),
    "all": ([1, 2, 3], [NAN, NAN, NAN], 3, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("case", ONE_SIDED)
def test_values_on_one_side_alone_are_counted(case: str, dtype: str) -> None:
    before, after, number, error = ONE_SIDED[case]
    wanted, found = (np.array([values], dtype=dtype) for values in (before, after))
    apart = difference(wanted, found)
    assert (apart.max_abs_error, apart.nonfinite, apart.num_values) == (error, number, 3)
    assert f"{number} of 3 values" in str(apart)
    for precision, limit in LIMITS.items():
        parity = compare("y", wanted, found, limit)
        assert not parity.passed, precision
        assert parity.nonfinite == number
        assert parity.max_abs_error is None


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_whole_numbers_are_compared_too(dtype: str) -> None:
    wanted = np.array([[0, 1, 1], [1, 0, 0]], dtype=dtype)
    assert difference(wanted, wanted)[:2] == (0.0, 0)
    assert difference(wanted, wanted[::-1])[:2] == (1.0, 0)
    assert compare("y", wanted, wanted, LIMITS["float32"]).passed
    assert not compare("y", wanted, wanted[::-1], LIMITS["float32"]).passed


@pytest.mark.parametrize("shape", [(2, 4), (2, 12), (3, 2, 4), (1, 2)])
def test_scores_that_a_mask_hides_in_both_are_equal(shape: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted[..., 0] = -INF
    assert compare("y", wanted, wanted.copy(), LIMITS["float32"]).passed
    assert not compare("y", wanted, np.where(np.isneginf(wanted), -1e9, wanted), LIMITS["float32"]).passed
    assert not compare("y", wanted, wanted + 0.1, LIMITS["float32"]).passed


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A linear classifier, right on its probe."""
    return tiny_onnx_artifact(tmp_path / "tiny")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_probe_with_a_value_that_is_none_is_not_reproduced(
    artifact: Artifact, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lissom.serve.repository import _open_warm

    whole = OnnxRuntime._infer_impl

    def broken(runtime: OnnxRuntime, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = whole(runtime, inputs)
        found["logits"][1, 0] = value
        return found

    monkeypatch.setattr(OnnxRuntime, "_infer_impl", broken)
    with pytest.raises(ArtifactError, match="1 of 9 values is NaN or infinite in one output alone"):
        _open_warm(artifact, "onnxruntime", 1)


def test_a_stored_nan_is_reproduced_by_nan_alone(tmp_path: Path) -> None:
    from tests.unit.artifacts import write_onnx_artifact

    from lissom.runtime.probe import probe_bytes

    plain = tiny_onnx_artifact(tmp_path / "plain")
    raw = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    stored = tiny_logits(raw)
    stored[2, 1] = NAN
    import onnx

    probe = probe_bytes({"image": (raw - 2) / 4}, {"logits": stored})
    model = onnx.load(plain.file("model.onnx"))
    kept = write_onnx_artifact(tmp_path / "nan", model, plain.manifest.signature, probe, recipe="nan")
    with open_runtime(kept, "onnxruntime") as runtime:  # which drops the NaN, as OpenVINO's Relu does
        error = probe_error(runtime)
    assert (error.passed, error.nonfinite, error.max_abs_error < 1e-5) == (False, 1, True)
    assert "1 of 9 values is NaN or infinite in one output alone" in error.told


def test_verify_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    from lissom.cli.output import show
    from lissom.cli.views.measurements import verified

    wanted = np.ones((4, 3), dtype=np.float32)
    found = wanted.copy()
    found[:2, 1] = NAN
    show("verify", verified([compare("y", wanted, found, LIMITS["int8"])], []), as_json=True)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "2 values are NaN or infinite in one of both alone" in document["gates"][0]["measured"]
    assert document["outputs"][0]["nonfinite"] == 2


def _with_nan(kind: str) -> tuple[Data, np.ndarray, np.ndarray]:
    """Outputs of which every fifth row has no answer, and which are right otherwise; which rows are lost."""
    random = np.random.default_rng(0)
    rows, shape = 60, (60, 4, 3) if kind == "tokens" else (60, 3)
    outputs = random.normal(size=shape).astype(np.float32)
    if kind == "probabilities":
        outputs = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    labels = outputs.argmax(-1)
    outputs[1::7, ..., 0] = -INF if kind != "probabilities" else 0.0  # a class that is ruled out is none lost
    labels[1::7] = outputs[1::7].argmax(-1)
    lost = np.arange(rows) % 5 == 0
    outputs[lost] = NAN  # argmax says 0, which is the label of a third of them
    if kind == "infinite logits":
        outputs[lost] = INF
    names = ("a", "b", "c")
    data = Data("rows", Dataset({"x": np.arange(rows, dtype=np.float32)[:, None]}, labels, names))
    return data, outputs, lost


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("kind", ["logits", "infinite logits", "probabilities", "tokens"])
def test_an_answer_that_is_none_is_never_right(
    kind: str, everything: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data, outputs, lost = _with_nan(kind)
    if everything:
        outputs, lost = np.full_like(outputs, NAN), np.ones_like(lost)
    task = task_of("language-modelling" if kind == "tokens" else "classification", data)
    task.scores = "probabilities" if kind == "probabilities" else "logits"

    def call(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": outputs[batch["x"][:, 0].astype(int)]}

    for split in ("train", "report"):
        right = ~lost[data.indices[split]]
        caplog.clear()
        judged = judge(call, data, split, task)
        assert f"NaN for {(~right).sum()} of {len(right)} samples of the {split} split" in caplog.text
        np.testing.assert_array_equal(judged.scores.astype(float), right.astype(float))
        np.testing.assert_array_equal(score_split(call, data, split, task)[1], judged.scores)
        if judged.log_probabilities is not None:
            np.testing.assert_array_equal(np.isnan(judged.log_probabilities).all(axis=1), ~right)
        if not everything:
            name = "token_accuracy" if kind == "tokens" else "accuracy"
            assert judged.metrics[name] == pytest.approx(right.mean())
        assert all(np.isfinite(value) for value in judged.metrics.values())
        if kind != "tokens":
            cells = np.zeros((3, 3), int)
            labels = data.labels(split)[right]
            np.add.at(cells, (labels, labels), 1)  # whoever has an answer has the right one
            assert evaluate(call, data, split, task).confusion == cells.tolist()
