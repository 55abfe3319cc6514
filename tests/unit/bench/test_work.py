"""The work of one call, counted on every format by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tests.unit.artifacts import write_onnx_artifact
from tests.unit.small import DATA, TOYS, Chain, data_for, load, make

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.bench.work import works_of
from lissom.models.catalogue import flops_of
from lissom.runtime.probe import probe_bytes
from lissom.structure import load_model


def flops(artifact: Artifact) -> int | None:
    """Of an artifact whose parents are not known."""
    return works_of([artifact])[artifact.name].flops


@pytest.mark.parametrize("source", ["mlp", "resnet", "vit", "lstm", "gru"])
def test_every_format_counts_the_same_operations_by_itself(
    chain: Callable[[str], Chain], source: str, tmp_path: Path
) -> None:
    trained, exported, quantized = chain(source)
    converted = [
        make(tmp_path / one.name, data_for(source), "export", parents={"input": one}, format="openvino")
        for one in (trained, quantized)
    ]
    counted = {flops(one) for one in (exported, quantized, *converted)}
    assert counted == {flops(trained)}


@pytest.mark.parametrize("mode", ["weight-only", "dynamic"])
@pytest.mark.parametrize("source", ["mlp", "vit", "lstm", "gru"])
def test_operators_of_onnx_runtime_alone_count_as_what_they_stand_for(
    chain: Callable[[str], Chain], source: str, mode: str, tmp_path: Path
) -> None:
    trained, exported, _ = chain(source)
    quantized = make(tmp_path / mode, data_for(source), "quantize", parents={"input": exported}, mode=mode)
    kinds = {node.domain for node in onnx.load(quantized.file("model.onnx")).graph.node}
    assert kinds - {""} or mode == "dynamic"
    assert flops(quantized) == flops(trained)


@pytest.mark.parametrize("name", ["grouped", "depthwise"])
def test_channels_of_other_groups_are_not_counted(name: str, tmp_path: Path) -> None:
    trained = load(tmp_path / "load", DATA, f"{TOYS}:{name}")
    counted = [flops(one) for one in (trained, *exports(trained, tmp_path))]
    groups = {"grouped": 4, "depthwise": 16}[name]
    pixels, first, last, head = 64, 9 * 16, 16 * 16, 16 * 4
    assert counted == [2 * (pixels * (first + 9 * 16 * 16 // groups + last) + head)] * 3


def exports(trained: Artifact, folder: Path) -> list[Artifact]:
    return [
        make(folder / kind, DATA, "export", parents={"input": trained}, format=kind)
        for kind in ("onnx", "openvino")
    ]


def test_a_transposed_convolution_works_on_every_pixel_that_it_reads(tmp_path: Path) -> None:
    source = tmp_path / "upsampling.py"
    source.write_text(
        "from torch import nn\n\n\n"
        "def model(in_channels=1, num_classes=4):\n"
        "    up = nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2), nn.ConvTranspose2d(12, 4, 2)\n"
        "    first = nn.Conv2d(in_channels, 8, 3, stride=2)\n"
        "    return nn.Sequential(first, *up, nn.Flatten(), nn.Linear(256, num_classes))\n"
    )
    trained = load(tmp_path / "load", DATA, f"{source}:model")
    first, grouped, plain, head = 9 * 9 * 8, 9 * 8 * 6 * 9, 49 * 12 * 4 * 4, 256 * 4
    assert flops(trained) == 2 * (first + grouped + plain + head)
    assert [flops(one) for one in exports(trained, tmp_path)] == [flops(trained)] * 2


def test_zeros_of_a_pruned_model_are_counted(chain: Callable[[str], Chain], tmp_path: Path) -> None:
    trained, _, _ = chain("mlp")
    model = load_model(trained)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert flops_of(model, [torch.zeros(1, 1, 8, 8)]) == flops(trained)


def graph_artifact(folder: Path, nodes: list[Any], **weights: np.ndarray) -> Artifact:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 4])],
        [value("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    probe = probe_bytes({"x": np.zeros((2, 4), np.float32)}, {"y": np.zeros((2, 4), np.float32)})
    signature = Signature(inputs=(spec,), outputs=(spec.model_copy(update={"name": "y"}),))
    known = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, opset_imports=known)
    return write_onnx_artifact(folder, model, signature, probe, recipe="graph")


@pytest.mark.parametrize("domain", ["elsewhere", "nowhere"])
def test_a_shape_that_cannot_be_inferred_leaves_the_count_unknown(tmp_path: Path, domain: str) -> None:
    nodes = [
        helper.make_node("Strange", ["x"], ["hidden"], domain=domain),
        helper.make_node("MatMul", ["hidden", "w"], ["y"]),
    ]
    found = graph_artifact(tmp_path / "strange", nodes, w=np.ones((4, 4), np.float32))
    assert flops(found) is None
    plain = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert flops(graph_artifact(tmp_path / "plain", [plain], w=np.ones((4, 4), np.float32))) == 32


def test_a_branch_with_work_of_its_own_leaves_the_count_unknown(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    weights = {"w": np.ones((4, 4), np.float32), "yes": np.array(True)}
    assert flops(graph_artifact(tmp_path / "branch", [node], **weights)) is None


def test_a_product_that_is_not_counted_leaves_the_count_unknown(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")
    assert flops(graph_artifact(tmp_path / "einsum", [node], w=np.ones((4, 4), np.float32))) is None
