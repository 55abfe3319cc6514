"""Where a runtime computes: what it cannot is refused, and a fallback is never silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper
from tests.unit.small import DATA, Chain

from lissom.errors import MachineError, RequestError
from lissom.report.gates import precision_gate
from lissom.runtime.base import Layer, Runtime, open_runtime
from lissom.runtime.onnx_runtime import OnnxRuntime, _executed_types

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
IMAGES = {"image": DATA.tensors("report")["image"]}


@without_gpu
@pytest.mark.parametrize("name", ["torch", "inductor"])
def test_torch_says_that_there_is_no_gpu(chain: Callable[[str], Chain], name: str) -> None:
    with pytest.raises(MachineError, match="cuda was asked for, and torch finds no GPU") as caught:
        open_runtime(chain("mlp").trained, name, device="cuda")
    assert caught.value.hint == "leave --device out"


@without_gpu
def test_a_provider_that_falls_back_is_refused(chain: Callable[[str], Chain]) -> None:
    with pytest.raises(MachineError, match="CUDAExecutionProvider and fell back to the CPU") as caught:
        open_runtime(chain("mlp").exported, "onnxruntime", device="cuda")
    assert "lissom doctor" in str(caught.value.hint)


@pytest.mark.parametrize("device", ["cuda", "tpu", ""])
def test_a_device_that_an_engine_does_not_know_is_refused(chain: Callable[[str], Chain], device: str) -> None:
    if not device:
        assert open_runtime(chain("mlp").exported, "openvino", device=device).device == "cpu"
        return
    with pytest.raises(RequestError, match=f"openvino computes on cpu, '{device}' was asked for"):
        open_runtime(chain("mlp").exported, "openvino", device=device)


def test_operators_that_were_left_to_the_cpu_fail_the_gate(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers(self: OnnxRuntime) -> list[Layer]:
        return [
            Layer("conv", "Conv", "float32", "CUDAExecutionProvider", True),
            Layer("fc", "Gemm", "float32", "CPUExecutionProvider", True),
            Layer("shape", "Shape", "", "CPUExecutionProvider", False),
        ]

    with open_runtime(chain("mlp").exported, "onnxruntime", threads=1) as runtime:
        assert runtime.elsewhere() == []
        monkeypatch.setattr(OnnxRuntime, "_layers_impl", layers)
        monkeypatch.setattr(runtime, "device", "cuda")
        assert runtime.elsewhere() == ["fc"]
        gate = precision_gate(runtime.artifact, runtime.executed(), runtime.elsewhere())
    assert (gate.state, gate.measured) == ("fail", "1 operator elsewhere")
    assert gate.reason == "fc fell back to the CPU"


@pytest.mark.parametrize(
    ("name", "place"), [("onnxruntime", "CPUExecutionProvider"), ("openvino", "cpu"), ("torch", "cpu")]
)
def test_every_layer_is_told_with_its_type_and_place(
    chain: Callable[[str], Chain], name: str, place: str
) -> None:
    found = chain("mlp")
    with open_runtime(found.trained if name == "torch" else found.exported, name, threads=1) as runtime:
        layers = runtime.layers()
    assert layers is not None
    assert {layer.place for layer in layers} == {place}
    assert sum(layer.computes for layer in layers) == 3
    assert {layer.precision for layer in layers if layer.computes} == {"float32"}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_type_of_a_product_is_that_of_what_it_reads(kind: int) -> None:
    """As ONNX Runtime writes a graph of 16 bits: all in 16 bits, or cast up where the CPU has no kernel."""
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [1], [1.0])
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=kind),
        helper.make_node("Relu", ["x16"], ["active"]),
        helper.make_node("MatMul", ["active", "w"], ["y16"]),
        helper.make_node("ConvInteger", ["active", "w"], ["z"]),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["y", "w"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "halves", inputs, [], [weight])
    named = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}[kind]
    assert _executed_types(graph) == [None, None, named, "int8", None, "float32"]


def test_an_engine_is_asked_for_its_layers_once(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    layers = OnnxRuntime._layers_impl
    monkeypatch.setattr(OnnxRuntime, "_layers_impl", lambda self: asked.append("once") or layers(self))
    with open_runtime(chain("mlp").exported, "onnxruntime", threads=1) as runtime:
        assert runtime.executed() == {"float32": 3}
        assert runtime.layers() == runtime.layers()
    assert asked == ["once"]


def test_more_samples_than_an_engine_takes_go_in_parts(
    chain: Callable[[str], Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_runtime(chain("mlp").exported, "onnxruntime", threads=1) as runtime:
        whole = runtime.infer(IMAGES)["logits"]
        sizes: list[int] = []

        def counted(self: Runtime, inputs: Any) -> dict[str, Any]:
            sizes.append(len(inputs["image"]))
            return infer(self, inputs)

        infer = type(runtime).infer
        monkeypatch.setattr(type(runtime), "infer", counted)
        monkeypatch.setattr(type(runtime), "max_batch", 8)
        assert abs(runtime.infer_batch(IMAGES)["logits"] - whole).max() < 1e-5
    assert sizes[:-1] == [8] * (len(sizes) - 1)
    assert sum(sizes) == len(whole)


def test_throughput_is_a_hint_that_changes_no_answer(chain: Callable[[str], Chain]) -> None:
    with (
        open_runtime(chain("mlp").exported, "openvino", threads=1) as one,
        open_runtime(chain("mlp").exported, "openvino", threads=1, hint="throughput") as other,
    ):
        assert abs(one.infer(IMAGES)["logits"] - other.infer(IMAGES)["logits"]).max() < 1e-5
