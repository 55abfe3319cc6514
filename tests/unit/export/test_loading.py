"""The stage `load` takes models from elsewhere, and says why when it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.unit.small import DATA, TOYS, Chain, load, make

from lissom.artifact import Artifact, TensorSpec
from lissom.errors import ArtifactError, DataError, LissomError, ModelError
from lissom.export import external_data
from lissom.export.external_data import DATA_FILE
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.pipeline import model_identity
from lissom.recipe import ModelConfig
from lissom.runtime.base import open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE

FLOAT = TensorProto.FLOAT
WEIGHTS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
value = helper.make_tensor_value_info


def onnx_file(
    path: Path,
    *,
    inputs: Any = None,
    outputs: Any = None,
    nodes: Any = None,
    weights: np.ndarray = WEIGHTS,
    opsets: dict[str, int] | None = None,
) -> str:
    """A linear classifier as a stranger would have written it, with one thing changed."""
    graph = helper.make_graph(
        nodes
        or [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        ],
        "theirs",
        inputs or [value("image", FLOAT, ["N", 1, 8, 8])],
        outputs or [value("scores", FLOAT, ["N", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 18}).items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="theirs")
    path.write_bytes(model.SerializeToString())
    return str(path)


def loaded(folder: Path, source: str, data: Data = DATA) -> Artifact:
    return make(folder / "load", data, "load", model=ModelConfig(source=source))


def test_an_onnx_file_of_somebody_else_becomes_an_artifact(tmp_path: Path) -> None:
    artifact = loaded(tmp_path, onnx_file(tmp_path / "theirs.onnx"))
    manifest = artifact.manifest
    assert (manifest.format, manifest.precision, manifest.num_parameters) == ("onnx", "float32", 256)
    assert manifest.signature.inputs == DATA.input_specs
    assert manifest.signature.outputs == (TensorSpec(name="scores", dtype="float32", shape=("batch", 4)),)
    assert manifest.notes == {"operators": 2}
    with open_runtime(artifact, "onnxruntime") as runtime:
        tensors = DATA.tensors("report")
        found = runtime.infer(tensors)["scores"]
    assert np.allclose(found, tensors["image"].reshape(len(found), -1) @ WEIGHTS, atol=1e-4)


def test_a_quantized_file_is_known_by_its_operators(tmp_path: Path, chain: Callable[[str], Chain]) -> None:
    small = chain("mlp").quantized
    artifact = loaded(tmp_path, str(small.file(MODEL_FILE)))
    assert artifact.manifest.precision == "int8"
    assert artifact.manifest.tolerance == small.manifest.tolerance


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_artifact_is_loaded_as_it_is(tmp_path: Path, chain: Callable[[str], Chain], kind: str) -> None:
    before = chain("mlp").trained if kind == "torch" else chain("mlp").exported
    after = loaded(tmp_path, str(before.path))
    assert after.manifest.format == kind
    assert after.manifest.signature == before.manifest.signature
    assert after.manifest.factory == before.manifest.factory
    inputs = DATA.tensors("report")
    with open_runtime(before) as one, open_runtime(after) as other:
        assert np.array_equal(one.infer(inputs)["logits"], other.infer(inputs)["logits"])


def test_a_factory_is_built_with_the_seed(tmp_path: Path) -> None:
    one, same, other = (
        load(tmp_path / name, DATA, "mlp", seed=seed).file("model.safetensors").read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == same != other


def test_data_of_another_shape_are_refused_for_an_artifact(tmp_path: Path) -> None:
    artifact = load(tmp_path / "first", DATA, "mlp")
    other = Data(
        "other", Dataset({"photo": np.zeros((40, 3), dtype=np.float32)}, np.arange(40) % 4, tuple("abcd"))
    )
    with pytest.raises(ArtifactError, match=r"takes image: .*8, 8.*, but other gives image: .*3") as caught:
        loaded(tmp_path, str(artifact.path), other)
    assert caught.value.hint == "the artifact was made with --data blobs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "inputs": [value("x", FLOAT, ["N", 1, 8, 8]), value("v", FLOAT, ["N", 4])],
                "nodes": [
                    helper.make_node("Flatten", ["x"], ["flat"]),
                    helper.make_node("MatMul", ["flat", "w"], ["product"]),
                    helper.make_node("Add", ["product", "v"], ["scores"]),
                ],
            },
            r"the model takes x.*, v.* has image.*missing: 'x', 'v'; unknown: 'image'",
        ),
        (
            {
                "inputs": [value("image", FLOAT, ["N", 3, 8, 8])],
                "weights": np.zeros((192, 4), dtype=np.float32),
            },
            "image",
        ),
        (
            {
                "inputs": [value("image", TensorProto.INT64, ["N", 1, 8, 8])],
                "outputs": [value("scores", TensorProto.INT64, ["N", 4])],
                "weights": WEIGHTS.astype(np.int64),
            },
            "image",
        ),
        ({"inputs": [value("image", FLOAT, None)], "outputs": [value("scores", FLOAT, None)]}, "image"),
        (
            {
                "nodes": [helper.make_node("Magic", ["image", "w"], ["scores"], domain="own.domain")],
                "opsets": {"": 18, "own.domain": 1},
            },
            "Magic",
        ),
        ({"nodes": [helper.make_node("NoSuchOperator", ["image", "w"], ["scores"])]}, "NoSuchOperator"),
        ({"opsets": {"": 99}}, "opset|99"),
        ({"nodes": [helper.make_node("MatMul", ["missing", "w"], ["scores"])]}, "missing"),
    ],
    ids=[
        "other name",
        "other size",
        "other type",
        "no shape",
        "own operator",
        "unknown operator",
        "newer operators",
        "no such tensor",
    ],
)
def test_an_onnx_file_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source = onnx_file(tmp_path / "theirs.onnx", **changes)
    with pytest.raises(LissomError, match=message):
        loaded(tmp_path, source)
    assert not (tmp_path / "load").exists()


def test_a_batch_that_the_file_fixes_is_freed_where_rows_keep_their_answers(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "theirs.onnx", inputs=[value("image", FLOAT, [1, 1, 8, 8])])
    made = loaded(tmp_path, source)
    assert made.manifest.signature.batching is not None
    assert made.manifest.signature.batching.joins
    images = DATA.tensors("report")["image"][:5]
    with open_runtime(made, "onnxruntime", threads=1) as runtime:
        found = runtime.infer({"image": images})["scores"]
    np.testing.assert_allclose(found, images.reshape(5, 64) @ WEIGHTS, rtol=1e-4, atol=1e-4)


def test_an_output_of_fixed_batch_size_is_refused_or_mended(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "theirs.onnx", outputs=[value("scores", FLOAT, [1, 4])])
    try:
        said = str(loaded(tmp_path, source).manifest.signature.outputs)
    except LissomError as exc:
        said = exc.message
    assert "scores" in said
    assert "(1, 4)" not in said


def in_two_files(folder: Path, location: str = "weights.bin") -> Path:
    """The same classifier with its weights beside it; the graph may then name another place."""
    model = onnx.load(onnx_file(folder / "single.onnx"))
    path = folder / "theirs.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph = onnx.load(path, load_external_data=False)
    for entry in graph.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(graph.SerializeToString())
    return path


def test_weights_in_another_file_are_read_into_the_artifact(tmp_path: Path) -> None:
    made = loaded(tmp_path, str(in_two_files(tmp_path)))
    (tmp_path / "weights.bin").unlink()
    with open_runtime(made, "onnxruntime", threads=1) as runtime:
        found = runtime.infer({"image": DATA.tensors("report")["image"]})["scores"]
    assert np.allclose(found, DATA.tensors("report")["image"].reshape(-1, 64) @ WEIGHTS, atol=1e-4)


def test_weights_in_another_file_decide_what_the_model_is(tmp_path: Path) -> None:
    model = ModelConfig(source=str(in_two_files(tmp_path)))
    before = model_identity(model)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    assert model_identity(model) != before
    assert set(before["weights_beside"]) == {"weights.bin"}
    assert "weights_beside" not in model_identity(ModelConfig(source=str(tmp_path / "single.onnx")))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../weights.bin", "leads out of its folder"),
        ("a/../../weights.bin", "leads out of its folder"),
        ("..\\weights.bin", "leads out of its folder"),
        ("/etc/passwd", "no path below its folder"),
        ("C:\\weights.bin", "no path below its folder"),
        ("", "no path below its folder"),
        ("link.bin", "which is a link"),
        ("linked/weights.bin", "which is a link"),
        ("weihgts.bin", "which is not there"),
        (".", "no path below its folder"),
    ],
)
def test_an_unsafe_path_to_weights_is_refused(tmp_path: Path, location: str, message: str) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    path = in_two_files(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        loaded(tmp_path, str(path))
    assert caught.value.hint
    with pytest.raises(ModelError, match=message):
        model_identity(ModelConfig(source=str(path)))


def test_weights_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    path = in_two_files(tmp_path)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:100])
    with pytest.raises(ModelError, match=r"theirs\.onnx"):
        loaded(tmp_path, str(path))


def test_a_model_that_is_too_large_for_one_file_is_written_as_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: Callable[[str], Chain]
) -> None:
    whole = chain("resnet")  # before the limit is lowered, because others read it too
    monkeypatch.setattr(external_data, "_ONE_FILE_BYTES", 1000)
    made = make(tmp_path / "export", DATA, "export", parents={"input": whole.trained})
    assert made.file(DATA_FILE).stat().st_size > made.file(MODEL_FILE).stat().st_size / 2
    assert made.size_bytes > whole.exported.size_bytes * 0.9
    images = {"image": DATA.tensors("report")["image"]}
    with open_runtime(whole.exported, "onnxruntime", threads=1) as runtime:
        wanted = runtime.infer(images)["logits"]
    again = load(tmp_path / "again", DATA, str(made.path))
    for artifact, name in ((made, "onnxruntime"), (made, "openvino"), (again, "onnxruntime")):
        with open_runtime(artifact, name, threads=1) as runtime:
            assert np.allclose(runtime.infer(images)["logits"], wanted, atol=1e-4)
            assert runtime.executed()
    ir = make(tmp_path / "ir", DATA, "export", parents={"input": made}, format="openvino")
    with open_runtime(ir, threads=1) as runtime:
        assert np.allclose(runtime.infer(images)["logits"], wanted, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 100, bytes(range(256))])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "theirs.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"theirs\.onnx|the model takes"):
        loaded(tmp_path, str(tmp_path / "theirs.onnx"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = Path(onnx_file(tmp_path / "theirs.onnx"))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ModelError, match="is not an ONNX model"):
        loaded(tmp_path, str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        loaded(tmp_path, str(tmp_path / "none.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match=r"folder\.onnx"):
        loaded(tmp_path, str(tmp_path / "folder.onnx"))


@pytest.mark.parametrize(
    ("source", "kwargs"),
    [
        ("resnet", {"in_channels": 3, "widths": [8], "blocks": [1]}),
        ("mlp", {"in_features": 3}),
        (f"{TOYS}:twin", {}),
    ],
)
def test_a_factory_whose_model_does_not_take_the_data_is_a_model_error(
    tmp_path: Path, source: str, kwargs: dict[str, Any]
) -> None:
    with pytest.raises((ModelError, DataError)):
        load(tmp_path / "load", DATA, source, **kwargs)
    assert not (tmp_path / "load").exists()


def test_weights_that_end_before_their_shape_does_are_refused(tmp_path: Path) -> None:
    """The length of the tensor is optional in the file; the shape is not."""
    path = in_two_files(tmp_path)
    graph = onnx.load(path, load_external_data=False)
    entries = graph.graph.initializer[0].external_data
    kept = [(entry.key, entry.value) for entry in entries if entry.key != "length"]
    del entries[:]
    for key, value_ in kept:
        entries.add(key=key, value=value_)
    path.write_bytes(graph.SerializeToString())
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:100])
    with pytest.raises(ModelError):
        loaded(tmp_path, str(path))
