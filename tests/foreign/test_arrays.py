"""Whatever lies behind a view, what is stored, computed and sent are its values.

The right answers are NumPy's own view of the array, and torch's output element by element.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tests.foreign.nets import LAYOUTS, NAME
from tests.unit.small import load, make

import lissom
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.stages import PREDICTIONS_FILE
from lissom.runtime.arrays import json_bytes, little_endian_bytes, plain, safetensors_bytes, tensor_of
from lissom.runtime.base import open_runtime
from lissom.runtime.probe import load_probe
from lissom.serve.messages import infer_answer
from lissom.serve.protocol import InferRequest, infer_response
from lissom.structure import load_model

_PLAIN = np.arange(24, dtype=np.float32).reshape(4, 6) / 7
_VIEWS: dict[str, np.ndarray] = {
    "plain": _PLAIN,
    "transposed": _PLAIN.T,
    "Fortran's order": np.asfortranarray(_PLAIN),
    "strided": _PLAIN[:, ::2],
    "reversed": _PLAIN[::-1, ::-1],
    "repeated": np.broadcast_to(_PLAIN[0], (3, 6)),
    "the other byte order": _PLAIN.astype(">f4"),
    "read-only": np.frombuffer(_PLAIN.tobytes(), np.float32),
    "without axes": np.float32(3.5) * np.ones(()),
    "empty": _PLAIN[:0].T,
    "part of a record": np.zeros(4, dtype=[("a", "u1"), ("b", "<f4")])["b"] + _PLAIN[:, 0],
    "a field of a record": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "u1"), ("b", "<f4")])["b"],
    "float64, reversed": np.arange(5.0)[::-1],
    "int64 in the other byte order": np.arange(6).astype(">i8").reshape(2, 3).T,
    "bool, strided": (np.arange(8) % 3 == 0)[::2],
}


@pytest.fixture(params=_VIEWS)
def view(request: pytest.FixtureRequest) -> np.ndarray:
    return _VIEWS[request.param]


def test_a_plain_array_has_the_values_of_the_view(view: np.ndarray) -> None:
    found = plain(view)
    assert found.shape == view.shape
    assert found.dtype == view.dtype.newbyteorder("=")
    assert found.flags.carray
    assert found.tolist() == view.tolist()
    assert plain(found) is found


def test_what_is_written_is_the_view(view: np.ndarray) -> None:
    read = safetensors.numpy.load(safetensors_bytes({"it": view, "again": view}))
    assert read["it"].tolist() == read["again"].tolist() == view.tolist()
    assert read["it"].shape == view.shape
    sent = np.frombuffer(little_endian_bytes(view), view.dtype.newbyteorder("<")).reshape(view.shape)
    assert sent.tolist() == view.tolist()


def test_torch_gets_the_view_and_may_write(view: np.ndarray) -> None:
    before = view.tolist()
    found = tensor_of(view)
    assert found.tolist() == before
    assert list(found.shape) == list(view.shape)


def test_json_holds_the_view(view: np.ndarray) -> None:
    found = json.loads(json_bytes({"deep": [{"it": view}]}))["deep"][0]["it"]
    assert np.allclose(found, view.astype(np.float64), rtol=1e-6)
    assert np.shape(found) == view.shape


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", [name for name in _VIEWS if name != "without axes"])
def test_an_answer_over_http_is_the_view(name: str, binary: bool) -> None:
    view = _VIEWS[name]
    for number in (None, "7"):
        body, length = infer_response(InferRequest(number, {}, {"it": binary}), {"it": view}, "m", "1")
        found = infer_answer(body, None if length is None else str(length))["it"]
        assert np.allclose(found, view)
        assert found.shape == view.shape


_ROWS = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
_DATA = Data("rows", Dataset({"x": _ROWS}, np.arange(400) % 4, tuple("abcd")))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stored_outputs_are_those_of_the_model(tmp_path: Path, layout: str) -> None:
    artifact = load(tmp_path / "load", _DATA, f"{NAME}:laid", layout=layout)
    stored = safetensors.numpy.load(artifact.file(PREDICTIONS_FILE).read_bytes())
    weight = load_model(artifact).state_dict()["weight"].double()
    product = torch.from_numpy(_ROWS[_DATA.indices["report"]]).double() @ weight.T
    wanted = LAYOUTS[layout](product).numpy()
    if wanted.ndim == 2:
        assert np.allclose(stored["outputs"], wanted, atol=1e-5)
    else:
        assert np.array_equal(stored["answers"], wanted.argmax(-1))
    inputs, outputs = load_probe(artifact)
    probed = LAYOUTS[layout](torch.from_numpy(inputs["x"]).double() @ weight.T).numpy()
    assert np.allclose(next(iter(outputs.values())), probed, atol=1e-5)


@pytest.mark.parametrize("layout", ["transposed", "strided", "repeated"])
def test_other_formats_store_the_same(tmp_path: Path, layout: str) -> None:
    artifact = load(tmp_path / "load", _DATA, f"{NAME}:laid", layout=layout)
    exported = make(tmp_path / "export", _DATA, "export", parents={"input": artifact})
    one, other = (
        safetensors.numpy.load(each.file(PREDICTIONS_FILE).read_bytes())["outputs"]
        for each in (artifact, exported)
    )
    assert np.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_an_engine_computes_the_view(tmp_path: Path, runtime: str) -> None:
    artifact = load(tmp_path / "load", _DATA, "mlp", hidden=[8])
    if runtime != "torch":
        artifact = make(tmp_path / "export", _DATA, "export", parents={"input": artifact})
    rows = _ROWS[:12]
    with open_runtime(artifact, runtime) as opened:
        wanted = opened.infer({"x": rows})["logits"]
        for given in (np.asfortranarray(rows), rows[::-1][::-1], np.repeat(rows, 2, axis=1)[:, ::2]):
            assert np.array_equal(opened.infer({"x": given})["logits"], wanted)
        repeated = np.broadcast_to(rows[0], (3, 16))
        assert np.allclose(opened.infer({"x": repeated})["logits"], wanted[:1], atol=1e-6)
        assert np.allclose(lissom.predict(artifact, {"x": rows.astype(">f8")})[1], _shares(wanted), atol=1e-5)


def _shares(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(-1).numpy()


_GIVEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran's order": np.asfortranarray,
    "the other byte order": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "reversed twice": lambda array: array[::-1].copy()[::-1],
    "strided": lambda array: np.repeat(array, 2, axis=0)[::2],
}


@pytest.mark.parametrize("layout", _GIVEN)
def test_data_are_what_their_arrays_say(layout: str) -> None:
    lay = _GIVEN[layout]
    tokens, labels = np.arange(60).reshape(20, 3) % 7, np.arange(60).reshape(20, 3) % 5
    floats = np.arange(80, dtype=np.float32).reshape(20, 4)
    from lissom.models.dataset import checked

    given = checked(Dataset({"tokens": lay(tokens), "x": lay(floats)}, lay(labels)), "given")
    wanted = checked(Dataset({"tokens": tokens, "x": floats}, labels), "wanted")
    one, other = Data("same", given), Data("same", wanted)
    assert one.input_specs == other.input_specs
    assert one.split_hashes == other.split_hashes
    for split in ("train", "report"):
        if len(other.indices[split]):
            assert np.array_equal(one.labels(split), other.labels(split))
            assert all(np.array_equal(one.tensors(split)[name], other.tensors(split)[name]) for name in "x")


_OWNER = "runtime/arrays.py"
_HANDED_ON = {
    ("torch", "from_numpy"),
    ("safetensors.numpy", "save"),
    ("safetensors.numpy", "save_file"),
    ("orjson", "OPT_SERIALIZE_NUMPY"),
    ("np", "ascontiguousarray"),
}


def test_only_one_module_hands_arrays_on() -> None:
    """What any module writes through another door would be the memory behind a view again."""
    source = Path(lissom.__file__).parent
    found = [
        f"{path.relative_to(source)}: {owner}.{name}"
        for path in sorted(source.rglob("*.py"))
        if str(path.relative_to(source)) != _OWNER
        for owner, name in _named(path)
        if (owner, name) in _HANDED_ON
    ]
    assert not found


def _named(path: Path) -> Iterator[tuple[str, str]]:
    """Attributes that a module names, with what they are attributes of."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
