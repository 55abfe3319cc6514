"""Arrays reach the inputs of a model by name and in its dtypes; held against the engine called directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import lissom
from lissom.artifact import Artifact
from lissom.errors import DataError, LissomError, RequestError
from lissom.logs import NoProgress
from lissom.models.data_sources import load_data
from lissom.pipeline import load_data as load_recipe_data
from lissom.pipeline import make_artifacts
from lissom.recipe import Recipe
from lissom.runtime.base import open_runtime

RANDOM = np.random.default_rng(0)
NODE, VALUE = helper.make_node, helper.make_tensor_value_info


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def onnx_file(
    path: Path, nodes: list[Any], inputs: dict[str, Any], output: Any, constants: dict[str, Any]
) -> Path:
    """A graph of one output; dtypes by their ONNX numbers."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [VALUE(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [VALUE("out", *output)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def loaded(folder: Path, model: object, data: object) -> tuple[Artifact, np.ndarray]:
    """The artifact that `load` makes of a model, and its outputs for the data that are not labelled."""
    recipe = Recipe.from_document(
        {
            "name": "theirs",
            "data": {"source": str(data)},
            "model": {"source": str(model)},
            "stages": [{"stage": "load"}],
        }
    )
    samples = load_recipe_data(recipe)
    (folder / "run").mkdir()
    (artifact,), _ = make_artifacts(recipe, samples, folder / "run", progress=NoProgress())
    split = "calibrate" if samples.dataset.labels is None else "report"
    with open_runtime(artifact, threads=1) as runtime:
        (outputs,) = runtime.infer_batch(samples.tensors(split)).values()
    return artifact, outputs


def answer(model: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, arrays)[0]
    return found


WEIGHT = floats(16, 8)
FLOAT, INT32, BOOL = TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL


def subtraction(path: Path) -> Path:
    return onnx_file(
        path,
        [
            NODE("MatMul", ["a", "w"], ["p"]),
            NODE("MatMul", ["b", "w"], ["q"]),
            NODE("Sub", ["p", "q"], ["out"]),
        ],
        {"a": (FLOAT, ["n", 16]), "b": (FLOAT, ["n", 16])},
        (FLOAT, ["n", 8]),
        {"w": WEIGHT},
    )


class Difference(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - 2 * second


class Scaled(nn.Module):
    def forward(self, x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
        return x * gain if shift is None else x * gain + shift


class Anything(nn.Module):
    def forward(self, *args: Tensor) -> Tensor:
        return args[0] - 2 * args[1]


class Target(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - 2 * y


def difference() -> nn.Module:
    return Difference()


def scaled() -> nn.Module:
    return Scaled()


def anything() -> nn.Module:
    return Anything()


def target() -> nn.Module:
    return Target()


THIS = f"{__file__}:"
A, B, C = floats(64, 16), floats(64, 16), floats(64, 16)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_an_onnx_file_is_fed_by_name(tmp_path: Path, order: tuple[str, ...]) -> None:
    model = subtraction(tmp_path / "m.onnx")
    arrays = {"a": A, "b": B}
    artifact, found = loaded(
        tmp_path, model, npz(tmp_path / "d.npz", **{name: arrays[name] for name in order})
    )
    assert [spec.name for spec in artifact.manifest.signature.inputs] == ["a", "b"]
    assert np.allclose(found, answer(model, arrays), atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "arrays", "wanted"),
    [
        ("difference", {"second": B, "first": A}, A - 2 * B),
        ("scaled", {"shift": C, "gain": B, "x": A}, A * B + C),
        ("scaled", {"gain": B, "x": A}, A * B),
        ("anything", {"second": B, "first": A}, B - 2 * A),
        ("target", {"y": B, "x": A}, A - 2 * B),
    ],
    ids=["two", "three", "an optional one left out", "any number, by order", "one called y"],
)
def test_a_torch_model_is_fed_by_the_names_of_its_forward(
    tmp_path: Path, factory: str, arrays: dict[str, np.ndarray], wanted: np.ndarray
) -> None:
    _, found = loaded(tmp_path, THIS + factory, npz(tmp_path / "d.npz", **arrays))
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "arrays", "named"),
    [
        ("difference", {"left": A, "right": B}, ("first", "second", "left", "right")),
        ("difference", {"first": A, "secnd": B}, ("second", "secnd")),
        ("difference", {"first": A}, ("first", "second")),
        ("scaled", {"x": A, "shift": B}, ("gain", "shift")),
        ("onnx", {"a": A, "c": B}, ("a", "b", "c")),
        ("onnx", {"a": A, "b": B, "c": C}, ("a", "b", "c")),
        ("onnx", {"a": A}, ("a", "b")),
    ],
)
def test_other_names_are_refused_and_both_sides_are_listed(
    tmp_path: Path, factory: str, arrays: dict[str, np.ndarray], named: tuple[str, ...]
) -> None:
    model = subtraction(tmp_path / "m.onnx") if factory == "onnx" else THIS + factory
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, model, npz(tmp_path / "d.npz", **arrays))
    assert all(name in caught.value.message for name in named)
    assert "by name" in caught.value.hint or "inputs=" in caught.value.hint


def test_the_only_array_is_taken_for_the_only_input_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lissom")
    model = onnx_file(
        tmp_path / "m.onnx",
        [NODE("MatMul", ["input.1", "w"], ["out"])],
        {"input.1": (FLOAT, ["n", 16])},
        (FLOAT, ["n", 8]),
        {"w": WEIGHT},
    )
    _, found = loaded(tmp_path, model, npz(tmp_path / "d.npz", x=A))
    assert np.allclose(found, A @ WEIGHT, atol=1e-5)
    assert any("'x'" in record.message and "'input.1'" in record.message for record in caplog.records)


IDS = RANDOM.integers(0, 16, (64, 6))
TYPED: dict[str, Callable[[Path], tuple[Path, dict[str, np.ndarray]]]] = {}


def typed(name: str, kind: int, array: np.ndarray, *nodes: Any, out: int = FLOAT, **constants: Any) -> None:
    def make(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
        shape = ["n", *array.shape[1:]]
        inputs = {"v": (kind, shape)}
        path = onnx_file(
            folder / "m.onnx", [*nodes], inputs, (out, [None] * 2 + [None] * name.endswith(" 3")), constants
        )
        return path, {"v": array}

    TYPED[name] = make


for ids_name, ids_kind, ids_dtype in (("int32", INT32, np.int32), ("int64", TensorProto.INT64, np.int64)):
    typed(f"ids {ids_name} 3", ids_kind, IDS.astype(ids_dtype), NODE("Gather", ["w", "v"], ["out"]), w=WEIGHT)
typed("negative int64 3", TensorProto.INT64, IDS - 16, NODE("Gather", ["w", "v"], ["out"]), w=WEIGHT)
for cast_name, cast_kind in (
    {
        "uint8": TensorProto.UINT8,
        "int8": TensorProto.INT8,
        "int16": TensorProto.INT16,
        "uint16": TensorProto.UINT16,
        "uint32": TensorProto.UINT32,
        "float64": TensorProto.DOUBLE,
    }
).items():
    values = RANDOM.integers(0, 100, (64, 16)).astype(cast_name)
    typed(
        cast_name,
        cast_kind,
        values,
        NODE("Cast", ["v"], ["f"], to=FLOAT),
        NODE("MatMul", ["f", "w"], ["out"]),
        w=WEIGHT,
    )
typed(
    "bool",
    BOOL,
    RANDOM.random((64, 16)) > 0.3,
    NODE("Where", ["v", "one", "two"], ["out"]),
    one=A[:1],
    two=B[:1],
)
typed(
    "float16",
    TensorProto.FLOAT16,
    A.astype(np.float16),
    NODE("MatMul", ["v", "w"], ["out"]),
    out=TensorProto.FLOAT16,
    w=WEIGHT.astype(np.float16),
)


@pytest.mark.parametrize("name", TYPED)
def test_an_input_keeps_the_dtype_that_the_file_declares(tmp_path: Path, name: str) -> None:
    model, arrays = TYPED[name](tmp_path)
    artifact, found = loaded(tmp_path, model, npz(tmp_path / "d.npz", **arrays))
    assert artifact.manifest.signature.inputs[0].dtype == arrays["v"].dtype.name
    wanted = answer(model, arrays)
    assert found.shape == wanted.shape
    assert np.allclose(found.astype(np.float64), wanted.astype(np.float64), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        (INT32, np.int64),
        (INT32, np.uint8),
        (INT32, np.float64),
        (TensorProto.INT64, np.int32),
        (BOOL, np.uint8),
    ],
)
def test_another_dtype_is_converted_where_no_value_changes(
    tmp_path: Path, declared: int, given: type
) -> None:
    model = onnx_file(
        tmp_path / "m.onnx",
        [NODE("Cast", ["v"], ["f"], to=FLOAT), NODE("MatMul", ["f", "w"], ["out"])],
        {"v": (declared, ["n", 16])},
        (FLOAT, ["n", 8]),
        {"w": WEIGHT},
    )
    array = RANDOM.integers(0, 2, (64, 16))
    _, found = loaded(tmp_path, model, npz(tmp_path / "d.npz", v=array.astype(given)))
    assert np.allclose(found, array.astype(np.float32) @ WEIGHT, atol=1e-4)


@pytest.mark.parametrize(
    ("declared", "array", "shown"),
    [
        (INT32, A, "float32"),
        (INT32, np.full((64, 16), 2**40), "1099511627776"),
        (TensorProto.UINT8, np.full((64, 16), -1), "-1"),
        (TensorProto.UINT8, np.full((64, 16), 300), "300"),
        (BOOL, np.full((64, 16), 2), "2"),
        (TensorProto.FLOAT, np.full((64, 16), 2**24 + 1), "16777217"),
        (TensorProto.FLOAT16, np.full((64, 16), 1e6, np.float32), "1000000"),
    ],
)
def test_a_value_that_would_change_is_refused_and_named(
    tmp_path: Path, declared: int, array: np.ndarray, shown: str
) -> None:
    model = onnx_file(
        tmp_path / "m.onnx",
        [NODE("Cast", ["v"], ["out"], to=FLOAT)],
        {"v": (declared, ["n", 16])},
        (FLOAT, ["n", 16]),
        {},
    )
    with pytest.raises(LissomError, match=shown) as caught:
        loaded(tmp_path, model, npz(tmp_path / "d.npz", v=array))
    assert caught.value.exit_code == 2
    assert "'v'" in caught.value.message


class Masked(nn.Module):
    """Right only with a mask of bool: one of numbers would be added to the scores."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask[:, None].expand(-1, 4, -1))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.from_numpy(WEIGHT.copy()))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).mean(1)  # type: ignore[no-any-return]


class Pixels(nn.Module):
    """Wraps around in uint8, as it does for its author."""

    def forward(self, image: Tensor) -> Tensor:
        return (image + 200).float().mean((2, 3))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(1e-9, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.round() + self.shift) * 1e9


def masked() -> nn.Module:
    return Masked()


def embedded() -> nn.Module:
    return Embedded()


def pixels() -> nn.Module:
    return Pixels()


def wide() -> nn.Module:
    return Wide()


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(16, 4)


@pytest.mark.parametrize(
    ("factory", "arrays", "dtypes"),
    [
        (masked, {"mask": RANDOM.random((32, 4)) > 0.4, "x": floats(32, 4, 8)}, ("float32", "bool")),
        (embedded, {"ids": IDS.astype(np.int32)}, ("int32",)),
        (embedded, {"ids": IDS.astype(np.uint8)}, ("int64",)),
        (pixels, {"image": RANDOM.integers(0, 256, (32, 3, 4, 4)).astype(np.uint8)}, ("uint8",)),
        (wide, {"x": RANDOM.normal(size=(32, 4))}, ("float64",)),
        (linear, {"x": RANDOM.normal(size=(32, 16))}, ("float32",)),
        (linear, {"x": RANDOM.integers(0, 9, (32, 16)).astype(np.int16)}, ("float32",)),
    ],
)
def test_a_torch_model_gets_the_dtypes_that_it_takes(
    tmp_path: Path, factory: Callable[[], nn.Module], arrays: dict[str, np.ndarray], dtypes: tuple[str, ...]
) -> None:
    if factory is masked:
        arrays["mask"][:, 0] = True
    data = npz(tmp_path / "d.npz", **arrays)
    artifact, found = loaded(tmp_path, f"{THIS}{factory.__name__}", data)
    inputs = artifact.manifest.signature.inputs
    assert tuple(spec.dtype for spec in inputs) == dtypes
    tensors = [torch.from_numpy(arrays[spec.name].astype(spec.dtype)) for spec in inputs]
    with torch.inference_mode():
        wanted = factory().eval()(*tensors).numpy()
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_labels_may_have_another_name_and_y_may_be_an_input(tmp_path: Path) -> None:
    file = npz(tmp_path / "d.npz", y=A, kind=np.arange(64) % 4, other=B)
    data = load_data(f"{file}?labels=kind")
    assert list(data.dataset.inputs) == ["y", "other"]
    assert data.num_classes == 4
    chosen = load_data(f"{file}?labels=kind&inputs=other")
    assert list(chosen.dataset.inputs) == ["other"]
    with pytest.raises(DataError, match="no array 'kinds'") as caught:
        load_data(f"{file}?labels=kinds")
    assert "kind" in caught.value.hint


@pytest.mark.parametrize("name", ["y", "split", "group"])
def test_an_input_may_have_a_name_that_data_keep_for_themselves(tmp_path: Path, name: str) -> None:
    model = onnx_file(
        tmp_path / "m.onnx",
        [NODE("MatMul", [name, "w"], ["out"])],
        {name: (FLOAT, ["n", 16])},
        (FLOAT, ["n", 8]),
        {"w": WEIGHT},
    )
    artifact, found = loaded(tmp_path, model, npz(tmp_path / "d.npz", **{name: A}))
    assert artifact.manifest.labels == ()
    assert np.allclose(found, A @ WEIGHT, atol=1e-5)


def test_predict_takes_arrays_in_any_order_and_no_others(tmp_path: Path) -> None:
    model = subtraction(tmp_path / "m.onnx")
    artifact, outputs = loaded(tmp_path, model, npz(tmp_path / "d.npz", a=A, b=B))
    labels, _ = lissom.predict(artifact, {"b": B, "a": A})
    assert labels == [str(index) for index in outputs.argmax(axis=1)]
    with pytest.raises(RequestError, match=r"takes a .*b .*has a .*c"):
        lissom.predict(artifact, {"a": A, "c": B})
