"""The exported file: the same function at every batch size, and nothing of this machine in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from tests.unit.small import DATA, LENGTH, VOCABULARY, Chain, data_for, load, make, toy

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.errors import ModelError
from lissom.export.onnx_file import name_axes, strip
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.registry import MODELS
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

Pair = tuple[Artifact, Artifact]
FAMILIES = ("resnet20", "vgg", "mlp", "rnn", "lstm", "gru", "vit", "bert", "gpt")
"""Models whose graphs are made of other operators than each other's."""


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, chain: Callable[[str], Chain]) -> Pair:
    """A trained torch artifact, and its export."""
    found = chain(request.param)
    return found.trained, found.exported


@pytest.fixture(scope="module")
def runtimes(pair: Pair) -> tuple[Runtime, Runtime]:
    """Both, opened."""
    return open_runtime(pair[0], "torch", threads=1), open_runtime(pair[1], "onnxruntime", threads=1)


def test_the_file_holds_nothing_of_this_machine(pair: Pair) -> None:
    content = pair[1].file(MODEL_FILE).read_bytes()
    places = {
        str(Path.cwd()),
        sys.prefix,
        str(Path.home()),
        str(pair[1].path.parent),
        str(Path(__file__).parents[3]),
    }
    for needle in (
        *(place for place in places if len(place) > 1),
        ".py",
        "site-packages",
        "torch.nn",
        "forward(",
    ):
        assert needle.encode() not in content, needle


def test_the_file_says_what_it_is_and_nothing_of_this_machine(pair: Pair) -> None:
    model = onnx.load(pair[1].file(MODEL_FILE))
    graph = model.graph
    assert model.producer_name == "lissom"
    told = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    manifest = pair[1].manifest
    assert told["lissom.signature"] == manifest.signature.model_dump(mode="json")
    assert told["lissom.labels"] == list(manifest.labels)
    assert told["lissom.task"] == manifest.task
    assert told["lissom.lineage"]["id"] == manifest.id
    assert [parent["digest"] for parent in told["lissom.lineage"]["parents"]] == [pair[0].digest]
    assert str(Path.cwd()) not in str(told)
    assert not graph.metadata_props
    assert not graph.value_info
    assert not model.functions
    assert model.doc_string == graph.doc_string == ""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        assert part.doc_string == ""
        assert not part.metadata_props


@pytest.mark.parametrize("name", FAMILIES)
def test_exporting_twice_gives_the_same_bytes_and_says_nothing(
    name: str, chain: Callable[[str], Chain], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = chain(name)
    capfd.readouterr()
    again = make(tmp_path / "export", data_for(name), "export", parents={"input": found.trained})
    assert capfd.readouterr() == ("", "")
    assert again.digest == found.exported.digest
    assert again.file(MODEL_FILE).read_bytes() == found.exported.file(MODEL_FILE).read_bytes()


def test_the_batch_axis_has_a_name_and_the_others_a_size(pair: Pair) -> None:
    graph = onnx.load(pair[1].file(MODEL_FILE)).graph
    dims = {value.name: list(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.output)}
    signature = pair[0].manifest.signature
    assert {name: [dim.dim_param or dim.dim_value for dim in found] for name, found in dims.items()} == {
        spec.name: list(spec.shape) for spec in (*signature.inputs, *signature.outputs)
    }
    assert all(spec.shape[0] == "batch" for spec in (*signature.inputs, *signature.outputs))


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 9])
def test_the_file_runs_at_every_batch_size(pair: Pair, batch: int) -> None:
    session = onnxruntime.InferenceSession(pair[1].file(MODEL_FILE), providers=["CPUExecutionProvider"])
    (given,) = pair[1].manifest.signature.inputs
    (made,) = pair[1].manifest.signature.outputs
    inputs = {given.name: np.zeros((batch, *given.shape[1:]), dtype=given.dtype)}
    assert session.run(["logits"], inputs)[0].shape == (batch, *made.shape[1:])


numbers = st.floats(-8, 8, width=32, allow_subnormal=False)
images = st.integers(1, 5).flatmap(lambda batch: hnp.arrays(np.float32, (batch, 1, 8, 8), elements=numbers))
tokens = st.integers(1, 5).flatmap(
    lambda batch: hnp.arrays(np.int64, (batch, LENGTH), elements=st.integers(0, VOCABULARY - 1))
)


@given(images, tokens)
@settings(max_examples=20)
def test_onnx_computes_what_torch_computes(
    runtimes: tuple[Runtime, Runtime], image: np.ndarray, text: np.ndarray
) -> None:
    (spec,) = runtimes[0].signature.inputs
    inputs = {spec.name: text if spec.dtype == "int64" else image}
    wanted, found = (runtime.infer(inputs)["logits"] for runtime in runtimes)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


def test_the_manifest_says_what_was_written(pair: Pair) -> None:
    whole, exported = (artifact.manifest for artifact in pair)
    assert (exported.format, exported.precision, exported.factory) == ("onnx", "float32", None)
    assert exported.num_parameters == whole.num_parameters
    assert exported.notes == {"opset": 20, "operators": len(onnx.load(pair[1].file(MODEL_FILE)).graph.node)}
    assert {Path(entry.path).name for entry in exported.files} == {
        "model.onnx",
        "predictions.safetensors",
        "probe.safetensors",
    }


@pytest.mark.parametrize("opset", [18, 23])
def test_the_operator_set_is_the_one_that_was_asked_for(tmp_path: Path, opset: int) -> None:
    whole = load(tmp_path / "load", DATA, "mlp", hidden=[4])
    exported = make(tmp_path / "export", DATA, "export", parents={"input": whole}, opset=opset)
    assert [
        found.version for found in onnx.load(exported.file(MODEL_FILE)).opset_import if not found.domain
    ] == [opset]


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((60, 8), dtype=np.float32)
    data = Data("twin", Dataset({"a": values[:, :3], "b": values[:, 3:]}, np.arange(60) % 4, tuple("wxyz")))
    whole = toy(tmp_path / "load", data, "twin")
    exported = make(tmp_path / "export", data, "export", parents={"input": whole})
    assert [spec.name for spec in exported.manifest.signature.outputs] == ["output_0", "output_1"]
    inputs = data.tensors("select")
    with open_runtime(whole, "torch") as one, open_runtime(exported, "onnxruntime") as other:
        wanted, found = one.infer(inputs), other.infer(inputs)
    assert list(found) == list(wanted) == ["output_0", "output_1"]
    assert all(np.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)


UNROLLED = """
import torch
from torch import nn

class Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return torch.stack([self.head(row) for row in x.flatten(1)])

def build():
    return Unrolled()
"""


def test_a_model_that_bakes_the_batch_size_in_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "unrolled.py"
    source.write_text(UNROLLED)
    whole = load(tmp_path / "load", DATA, f"{source}:build")
    with pytest.raises(ModelError, match=r"axis 0|batch|fixed|exported"):
        make(tmp_path / "export", DATA, "export", parents={"input": whole})
    assert not (tmp_path / "export").exists()


def test_a_model_that_runs_at_one_batch_size_alone_is_called_with_so_many(tmp_path: Path) -> None:
    artifact = toy(tmp_path / "load", DATA, "baked")
    assert artifact.manifest.factory is not None
    assert artifact.manifest.factory.samples_per_call == 8


UNTRACEABLE = """
import torch
from torch import nn

class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        y = self.head(x.flatten(1))
        return y if float(y.sum()) > 0 else y * 1.0

def build():
    return Untraceable()
"""


def test_a_model_that_cannot_be_captured_is_a_model_error_in_three_lines(tmp_path: Path) -> None:
    source = tmp_path / "untraceable.py"
    source.write_text(UNTRACEABLE)
    whole = load(tmp_path / "load", DATA, f"{source}:build")
    with pytest.raises(ModelError, match="'load' cannot be exported to ONNX") as caught:
        make(tmp_path / "export", DATA, "export", parents={"input": whole})
    what, reason, place = caught.value.message.splitlines()
    assert what == "'load' cannot be exported to ONNX:"
    assert "Could not guard on data-dependent expression" in reason
    assert place.endswith("return y if float(y.sum()) > 0 else y * 1.0")


def test_one_sample_is_enough_to_export(tmp_path: Path) -> None:
    data = Data("one", Dataset({"image": DATA.dataset.inputs["image"][:1]}))
    whole = load(tmp_path / "load", data, "mlp", num_classes=4, hidden=[4])
    exported = make(tmp_path / "export", data, "export", parents={"input": whole})
    with open_runtime(exported, "onnxruntime") as runtime:
        assert runtime.infer({"image": np.zeros((5, 1, 8, 8), dtype=np.float32)})["logits"].shape == (5, 4)


def documented(name: str) -> Any:
    """A node that carries what an exporter knows about this machine."""
    node = helper.make_node("Identity", ["x"], [name], doc_string="File model.py, line 3")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File model.py, line 3")
    return node


def test_branches_and_functions_are_stripped_as_well() -> None:
    branches = [
        helper.make_graph(
            [documented(name)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])]
        )
        for name in ("then", "other")
    ]
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [choice],
        "main",
        [value("flag", TensorProto.BOOL, []), value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
        doc_string="from model.py",
    )
    function = helper.make_function(
        "own", "f", ["x"], ["z"], [documented("z")], [helper.make_opsetid("", 18)]
    )
    model = helper.make_model(graph, functions=[function], doc_string="from model.py")
    model.functions[0].doc_string = "from model.py"
    strip(model)
    assert b"model.py" not in model.SerializeToString()


def test_an_axis_that_the_exporter_fixed_is_refused() -> None:
    specs = [TensorSpec(name=name, dtype="float32", shape=("batch", 3)) for name in ("x", "y")]
    signature = Signature(inputs=tuple(specs[:1]), outputs=tuple(specs[1:]))
    value = helper.make_tensor_value_info
    good, bad = (
        helper.make_model(
            helper.make_graph(
                [], "main", [value("x", TensorProto.FLOAT, ["n", 3])], [value("y", TensorProto.FLOAT, dims)]
            )
        )
        for dims in (("n", 3), (8, 3))
    )
    name_axes(good, signature)
    assert good.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    with pytest.raises(ModelError, match=r"the exporter fixed axis 0 \(batch\) of 'y' at 8"):
        name_axes(bad, signature)
