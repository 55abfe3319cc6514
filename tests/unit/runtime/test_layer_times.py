"""Every engine that can tell says how long each of its operators takes, and is as fast afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.small import DATA, Chain

from lissom.artifact import Artifact
from lissom.bench.layers import aligned, grouped
from lissom.errors import RequestError
from lissom.optional import require
from lissom.runtime.base import LayerTime, open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.open_vino import _FIRST_CALLS, _mean_seconds

IMAGES = {"image": DATA.tensors("report")["image"][:2]}


def artifact(chain: Callable[[str], Chain], place: int) -> Artifact:
    """Trained, exported or quantized."""
    trained, exported, quantized = chain("resnet")
    return (trained, exported, quantized)[place]


def times_of(chain: Callable[[str], Chain], place: int, runtime: str) -> list[LayerTime]:
    with open_runtime(artifact(chain, place), runtime, threads=1) as opened:
        found = opened.layer_times(IMAGES, 4)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("place", "runtime", "kind"),
    [(0, "torch", "Conv2d"), (1, "onnxruntime", "Conv"), (1, "openvino", "Convolution")],
)
def test_convolutions_are_among_them_with_their_times(
    chain: Callable[[str], Chain], place: int, runtime: str, kind: str
) -> None:
    found = times_of(chain, place, runtime)
    convolutions = [one for one in found if one.operator == kind]
    assert convolutions
    assert all(one.seconds >= 0 for one in found)
    assert sum(one.seconds for one in found) > 0
    assert {one.precision for one in convolutions} == {"float32"}
    assert all(one.tensors for one in found)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_of_float32_and_int8_find_each_other(chain: Callable[[str], Chain], runtime: str) -> None:
    graphs = [
        require("onnx", extra="cpu").load(artifact(chain, place).file(MODEL_FILE)).graph for place in (1, 2)
    ]
    before, after = (
        grouped(times_of(chain, place, runtime), graph) for place, graph in zip((1, 2), graphs, strict=True)
    )
    changes = aligned(before, after)
    both = [change for change in changes if change.before and change.after]
    assert len(both) >= 4
    assert any(change.after and change.after.precision in ("int8", "uint8") for change in both)
    assert any("." in change.label for change in changes)


def test_what_openvino_fused_into_an_operator_is_told_with_it(chain: Callable[[str], Chain]) -> None:
    graph = require("onnx", extra="cpu").load(artifact(chain, 2).file(MODEL_FILE)).graph
    layers = grouped(times_of(chain, 2, "openvino"), graph)
    assert [layer.precision for layer in layers if layer.label == "head"] == ["int8"]


def counter(microseconds: int) -> Any:
    return SimpleNamespace(real_time=timedelta(microseconds=microseconds))


def test_slow_first_calls_are_taken_out_of_a_mean_of_all() -> None:
    slow, fast, num_calls = 600, 20, 6 * _FIRST_CALLS
    mean = (slow * _FIRST_CALLS + fast * num_calls) // (_FIRST_CALLS + num_calls)
    assert _mean_seconds(counter(slow), counter(mean), num_calls) == pytest.approx(fast / 1e6, abs=2e-6)
    assert _mean_seconds(counter(slow), counter(0), num_calls) == 0


def test_torch_has_no_hooks_left_and_answers_as_before(chain: Callable[[str], Chain]) -> None:
    with open_runtime(artifact(chain, 0), "torch", threads=1) as opened:
        before = opened.infer(IMAGES)["logits"]
        opened.layer_times(IMAGES, 2)
        modules = list(opened.model.modules())  # type: ignore[attr-defined]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        assert np.array_equal(opened.infer(IMAGES)["logits"], before)


def test_inputs_are_checked_as_in_every_call(chain: Callable[[str], Chain]) -> None:
    with open_runtime(artifact(chain, 1), "onnxruntime") as opened, pytest.raises(RequestError):
        opened.layer_times({"picture": IMAGES["image"]}, 2)


def test_an_engine_that_cannot_tell_says_none(chain: Callable[[str], Chain]) -> None:
    with open_runtime(artifact(chain, 1), "onnxruntime") as opened:
        kind = type(opened)
        assert super(kind, opened)._layer_times_impl(IMAGES, 1) is None
