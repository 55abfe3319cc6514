"""A quantized file is judged by samples that gave it no range, and is no worse than plain settings give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tests.foreign.test_quantization_engines import network, quantized, sqnr_db
from tests.unit.small import context

from lissom.compress.quantization import calibration_samples
from lissom.compress.quantizing.evidence import held_out
from lissom.models.data import Data, Dataset
from lissom.recipe import QuantizeConfig
from lissom.runtime.machine import has_vnni
from lissom.runtime.onnx_runtime import MODEL_FILE

KINDS = ("relu", "sigmoid", "products")


def data_of(number: int, split: list[str] | None = None) -> Data:
    rows = np.arange(number, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    return Data("rows", Dataset({"x": rows}, split=None if split is None else np.array(split)))


def test_every_fourth_sample_judges_and_gives_no_range(tmp_path: Path) -> None:
    data = data_of(64)
    places = held_out(data)
    rows = data.tensors("calibrate")["x"][:, 0]
    given = calibration_samples(context(tmp_path, data, QuantizeConfig(name="q")), 256)["x"][:, 0]
    assert len(places) == len(rows) // 4
    assert sorted([*rows[places], *given]) == sorted(rows)


@pytest.mark.parametrize(
    "data", [data_of(16), data_of(64, ["calibrate"] * 32 + ["select"] * 32)], ids=["few", "select split"]
)
def test_all_samples_give_ranges_where_others_judge_or_there_are_few(data: Data, tmp_path: Path) -> None:
    given = calibration_samples(context(tmp_path, data, QuantizeConfig(name="q")), 256)["x"]
    assert not len(held_out(data))
    assert len(given) == len(data.indices["calibrate"])


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: np.ndarray) -> None:
        self._calls = iter([{"x": row[None]} for row in samples])

    def get_next(self) -> Any:
        return next(self._calls, None)


def answers(path: Path, samples: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": samples})[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_on_new_samples_it_is_no_worse_than_plain_settings(kind: str, tmp_path: Path) -> None:
    path, data = network(kind, tmp_path)
    samples = data.tensors("calibrate")["x"]
    new = np.random.default_rng(9).normal(size=(128, *samples.shape[1:])).astype(np.float32)
    plain = tmp_path / "plain.onnx"
    quantize_static(
        str(path),
        str(plain),
        Reader(samples),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        reduce_range=not has_vnni(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    _, artifact, _ = quantized(kind, tmp_path)
    wanted = answers(path, new)
    own = sqnr_db(wanted, answers(artifact.file(MODEL_FILE), new))
    assert own >= sqnr_db(wanted, answers(plain, new)) - 0.5
    notes = artifact.manifest.notes
    assert notes["held_out"] == notes["judged_samples"] == len(held_out(data)) == 16
