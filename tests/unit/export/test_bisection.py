"""Bisection: which tensor and which layer two artifacts part at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.artifacts import onnx_model, write_onnx_artifact
from tests.unit.small import TOYS, blobs, load, make, toy

from lissom.artifact import Artifact, Draft, Signature, TensorSpec
from lissom.errors import ModelError
from lissom.export.bisection import Divergence, first_divergence
from lissom.export.verification import LIMITS, failing_batch, limit_of
from lissom.models.data import Data
from lissom.runtime.base import open_runtime
from lissom.runtime.probe import probe_bytes

DATA = blobs(120)
EXACT, INT8 = LIMITS["float32"], LIMITS["int8"]
FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bisection")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Artifact:
    return toy(folder / "torch", DATA, "batch_norm")


@pytest.fixture(scope="module")
def exported(folder: Path, trained: Artifact) -> Artifact:
    return make(folder / "onnx", DATA, "export", parents={"input": trained})


@pytest.fixture(scope="module")
def quantized(folder: Path, exported: Artifact) -> Artifact:
    return make(folder / "int8", DATA, "quantize", parents={"input": exported})


def rewritten(artifact: Artifact, folder: Path, change: Callable[[Any], Any], **fields: Any) -> Artifact:
    """The artifact with a changed graph."""
    model = onnx.load(artifact.file("model.onnx"))
    change(model.graph)
    kept = {key: value for key, value in artifact.manifest if key not in ("files", "schema_")}
    with Draft(folder) as draft:
        draft.add("model.onnx", model.SerializeToString())
        return draft.commit(**kept | fields)


def corrupting(name: str, value: float | None = None) -> Callable[[Any], None]:
    """Doubles every other weight of a layer, or sets one weight to a value."""

    def change(graph: Any) -> None:
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        weights = numpy_helper.to_array(tensor).copy()
        if value is None:
            weights.reshape(-1)[::2] *= 2
        else:
            weights.reshape(-1)[0] = value
        tensor.CopyFrom(numpy_helper.from_array(weights, name))

    return change


def where(
    parent: Artifact,
    child: Artifact,
    data: Data = DATA,
    runtimes: tuple[str | None, str | None] = (None, None),
    **limits: Any,
) -> Divergence | None:
    """What the command line does where parity fails."""
    limit = limit_of(child.manifest.precision, data)._replace(**limits)
    with (
        open_runtime(parent, runtimes[0], threads=1) as one,
        open_runtime(child, runtimes[1], threads=1) as two,
    ):
        return first_divergence(one, two, failing_batch(one, two, data), limit)


def test_a_weight_that_changed_on_export_names_its_layer(
    tmp_path: Path, trained: Artifact, exported: Artifact
) -> None:
    found = where(trained, rewritten(exported, tmp_path / "x", corrupting("features.2.weight")))
    assert found is not None
    assert found[:3] == ("getitem_3", "Conv", "features.2")  # though a norm was folded into it
    assert found.sqnr_db is not None
    assert found.sqnr_db < EXACT.min_sqnr_db
    assert found.max_abs_error is not None
    assert found.max_abs_error > 0
    assert found.previous == "getitem"
    assert 2 <= found.checked <= 4  # of six tensors


def test_two_onnx_files_on_two_engines_are_compared_tensor_by_tensor(
    tmp_path: Path, exported: Artifact
) -> None:
    changed = rewritten(exported, tmp_path / "x", corrupting("features.5.weight"))
    for runtimes in (("openvino", "onnxruntime"), ("onnxruntime", "openvino")):
        found = where(exported, changed, runtimes=runtimes)
        assert found is not None
        assert found[:3] == ("conv2d_2", "Conv", "features.5")
        assert found.previous == "relu"


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_the_first_tensor_that_is_no_number_is_found(
    tmp_path: Path, exported: Artifact, value: float
) -> None:
    found = where(exported, rewritten(exported, tmp_path / "x", corrupting("features.2.weight", value)))
    assert found is not None
    assert (found.tensor, found.layer) == ("getitem_3", "features.2")
    assert (found.sqnr_db, found.max_abs_error) == (None, None)


def test_models_that_agree_have_no_divergence(trained: Artifact, exported: Artifact) -> None:
    assert where(trained, exported) is None
    assert where(exported, exported, runtimes=("onnxruntime", "openvino")) is None


def test_two_torch_models_are_compared_operator_by_operator(folder: Path, trained: Artifact) -> None:
    found = where(trained, load(folder / "other", DATA, f"{TOYS}:batch_norm", seed=1))
    assert found is not None
    assert found == ("conv2d", "aten.conv2d.default", "features.0", *found[3:6], None)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_layer_that_quantizing_broke_is_named(
    tmp_path: Path, exported: Artifact, quantized: Artifact, engine: str
) -> None:
    changed = rewritten(quantized, tmp_path / "x", corrupting("features.5.weight_quantized"))
    for parent in (exported, quantized):
        found = where(parent, changed, runtimes=(None, engine))
        assert found is not None
        assert found[:3] == ("conv2d_2", "Conv", "features.5")


def test_a_quantized_model_within_its_limits_names_the_layer_that_adds_most_noise(
    exported: Artifact, quantized: Artifact
) -> None:
    found = where(exported, quantized)
    assert found is not None
    assert found.layer in ("features.0", "features.2", "features.5", "head")
    assert found.sqnr_db is not None
    assert found.sqnr_db > INT8.min_sqnr_db
    assert found.checked == 5  # getitem, relu (a part of rounding now), conv2d_2, mean, logits


def test_scale_that_moved_into_the_next_weights_is_no_divergence(tmp_path: Path, exported: Artifact) -> None:
    factors = np.array([100.0, 0.01] * 8, dtype=np.float32)

    def change(graph: Any) -> None:
        for tensor in graph.initializer:
            shape = {
                "features.2.weight": (-1, 1, 1, 1),
                "features.2.bias": (-1,),
                "features.5.weight": (-1, 1, 1),
            }
            if tensor.name in shape:
                weights, factor = numpy_helper.to_array(tensor), factors.reshape(shape[tensor.name])
                moved = weights / factor if tensor.name == "features.5.weight" else weights * factor
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        corrupting("head.weight")(graph)

    changed = rewritten(exported, tmp_path / "x", change, precision="int8")
    found = where(exported, changed, min_sqnr_db=50.0)
    assert found is not None
    assert found[:3] == ("logits", "Gemm", "head")


MODELS = """
import torch
from torch import nn


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, image):
        rows = image.squeeze(1)  # of three axes, for which the exporter transposes and renames weights
        return self.head(self.last(self.layer(self.layer(rows).relu()).relu()).mean(1))


class Deciding(Twice):
    def forward(self, image):
        return super().forward(-image if image.sum() > 0 else image)


def twice():
    return Twice()


def deciding():
    return Deciding()
"""


@pytest.fixture(scope="module")
def models(folder: Path) -> str:
    (folder / "models.py").write_text(MODELS)
    return str(folder / "models.py")


def test_weights_that_the_exporter_renamed_are_named_as_in_the_model(folder: Path, models: str) -> None:
    parent = load(folder / "twice", DATA, f"{models}:twice")
    child = make(folder / "twice-onnx", DATA, "export", parents={"input": parent})
    graph = onnx.load(child.file("model.onnx")).graph
    weights = [node.input[1] for node in graph.node if node.op_type == "MatMul"]
    assert weights[0] == weights[1]  # one layer that is called twice
    found = where(parent, rewritten(child, folder / "first", corrupting(weights[0])))
    assert found is not None
    assert found[:3] == ("linear", "Add", "layer")
    told_by_bias = where(child, rewritten(child, folder / "last", corrupting(weights[2])))
    assert told_by_bias is not None
    assert told_by_bias[1:3] == ("MatMul", "last")


def test_a_model_that_torch_cannot_capture_is_refused(folder: Path, models: str) -> None:
    deciding = load(folder / "deciding", DATA, f"{models}:deciding")
    with pytest.raises(ModelError, match="'deciding' cannot be captured:\n"):
        where(deciding, deciding)


def branches(folder: Path, *, prefix: str = "", wrong: str = "") -> Artifact:
    """Two branches that meet: one product, which comes first in the graph, and two."""
    sums = [f"{prefix}short", f"{prefix}longer"]
    nodes = [
        helper.make_node("MatMul", ["image", "a.weight"], sums[:1]),
        helper.make_node("MatMul", ["image", "b.weight"], [f"{prefix}long"]),
        helper.make_node("MatMul", [f"{prefix}long", "c.weight"], sums[1:]),
        helper.make_node("Add", sums, ["logits"]),
    ]
    generator = np.random.default_rng(0)
    weights = {f"{name}.weight": generator.normal(size=(4, 4)) * (1 + (name == wrong)) for name in "abc"}
    return handmade(folder, nodes, weights)


def masked(folder: Path, *, mask: float, factor: float = 1.0) -> Artifact:
    """Scores of which the last is hidden."""
    nodes = [
        helper.make_node("MatMul", ["image", "a.weight"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"]),
        helper.make_node("MatMul", ["shares", "b.weight"], ["logits"]),
    ]
    weights = np.random.default_rng(0).normal(size=(2, 4, 4))
    hidden = np.array([0, 0, 0, mask])
    return handmade(folder, nodes, {"a.weight": weights[0], "mask": hidden, "b.weight": weights[1] * factor})


ROWS = blobs(120, shape=(4,))


def handmade(folder: Path, nodes: list[Any], constants: dict[str, np.ndarray]) -> Artifact:
    model = onnx_model(
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, ("batch", 4))],
        [helper.make_tensor_value_info("logits", FLOAT, ("batch", 4))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    signature = Signature(
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 4)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", 4)),),
    )
    zeros = np.zeros((2, 4), dtype=np.float32)
    probe = probe_bytes({"image": zeros}, {"logits": zeros})
    return write_onnx_artifact(folder, model, signature, probe, recipe=folder.name)


@pytest.mark.parametrize(("wrong", "tensor"), [("a", "short"), ("b", "long"), ("c", "longer")])
def test_branches_are_told_apart_whatever_their_order(tmp_path: Path, wrong: str, tensor: str) -> None:
    found = where(branches(tmp_path / "a"), branches(tmp_path / "b", wrong=wrong), ROWS)
    assert found is not None
    assert found[:3] == (tensor, "MatMul", wrong)


def test_tensors_of_other_names_are_not_compared(tmp_path: Path) -> None:
    found = where(branches(tmp_path / "a"), branches(tmp_path / "b", prefix="my_", wrong="b"), ROWS)
    assert found is not None
    assert (found.tensor, found.checked, found.previous) == ("logits", 1, None)


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min, -65504.0])
def test_a_mask_may_be_infinity_or_the_smallest_number(tmp_path: Path, hidden: float) -> None:
    parent = masked(tmp_path / "a", mask=float(np.finfo(np.float32).min))
    found = where(parent, masked(tmp_path / "b", mask=hidden, factor=1.5), ROWS)
    assert found is not None
    assert (found.tensor, found.previous) == ("logits", "shares")


def test_a_compiled_model_shows_nothing(trained: Artifact, exported: Artifact) -> None:
    compiled: Any = SimpleNamespace(artifact=trained, name="inductor")
    with open_runtime(exported, threads=1) as other:
        assert first_divergence(compiled, other, {}, EXACT) is None
        assert first_divergence(other, compiled, {}, EXACT) is None
