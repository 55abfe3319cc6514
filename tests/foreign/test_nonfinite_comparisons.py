"""NaN and infinity are part of every comparison: what is not finite on one side alone is not equal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.artifacts import tiny_logits, tiny_onnx_artifact

from lissom.artifact import Artifact
from lissom.errors import ArtifactError
from lissom.export.verification import LIMITS, compare
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
