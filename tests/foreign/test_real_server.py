"""One server, as `lissom serve` starts it, with models that treat a batch in odd ways, asked by many at once.

Right answers come from ONNX Runtime, called directly with what one caller sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from tests.foreign.batches import KINDS, engine
from tests.foreign.rare_batches import RARE
from tests.foreign.test_batching import assert_same, requests_of, settled
from tests.integration.test_serving import Server, serving

from lissom.runtime.layout import Layout
from lissom.serve.load import LoadRequest, prepare
from lissom.verbs.files import open_model

STATES = {
    "gru": KINDS["states"]["GRU"],
    "lstm": KINDS["states"]["LSTM"],
    "layers": KINDS["states"]["two layers"],
}
GRAPHS = {name: make() for name, make in {**RARE, **STATES}.items()}
DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Served(NamedTuple):
    """A server that runs, and the folder of its files."""

    server: Server
    folder: Path

    def infer(self, model: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        entries = [
            {"name": name, "shape": list(one.shape), "datatype": "FP32", "data": one.reshape(-1).tolist()}
            for name, one in tensors.items()
        ]
        body = json.dumps({"inputs": entries}).encode()
        status, answer = self.server.request("POST", f"/v2/models/{model}/infer", body)
        assert status == 200, (model, answer)
        return {
            one["name"]: np.array(one["data"], DTYPES[one["datatype"]]).reshape(one["shape"])
            for one in json.loads(answer)["outputs"]
        }

    def metadata(self, model: str) -> Any:
        return json.loads(self.server.request("GET", f"/v2/models/{model}")[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("real")
    made = []
    for name, found in GRAPHS.items():
        onnx.save(found.model, folder / f"{name}.onnx")
        given = {key: array for key, array in found.samples.items() if name not in STATES or key == "x"}
        np.savez(folder / f"{name}.npz", **given)
        made.append(
            open_model(folder / f"{name}.onnx", data=folder / f"{name}.npz", out=folder / "runs" / name).path
        )
    with serving(folder, *made, runtime="onnxruntime", max_delay_ms=20.0) as server:
        yield Served(server, folder)


@pytest.mark.parametrize("name", RARE)
def test_the_axes_are_those_of_the_graph(name: str) -> None:
    found = GRAPHS[name]
    _, signature = settled(found)
    assert signature.batching is not None
    assert (signature.batching.joins, signature.batching.outputs) == (found.joins, found.outputs)


def test_callers_of_all_models_at_once_get_what_the_model_says_to_each_alone(served: Served) -> None:
    asked = []
    for name in RARE:
        found = GRAPHS[name]
        layout = Layout(settled(found)[1])
        asked += [(name, one) for one in requests_of(found.samples, layout, [1, 2, 1, 3, 1, 9, 2, 1])]
    large = {"x": 1e4 * GRAPHS["limited"].samples["x"][:1]}
    asked += [("limited", large), *(("limited", {"x": GRAPHS["limited"].samples["x"][:1]}) for _ in range(3))]
    order = np.random.default_rng(0).permutation(len(asked))
    with ThreadPoolExecutor(24) as callers:
        answers = list(callers.map(lambda place: served.infer(*asked[place]), order))
    alone = {name: engine(GRAPHS[name].model) for name in RARE}
    for place, answer in zip(order, answers, strict=True):
        name, tensors = asked[place]
        assert_same(answer, alone[name](tensors))


@pytest.mark.parametrize("name", STATES)
def test_states_may_be_left_out_of_requests_and_carried(served: Served, name: str) -> None:
    found, x = GRAPHS[name], GRAPHS[name].samples["x"][:2]
    states = served.metadata(name)["properties"]["batch_axes"]["states"]
    assert set(states) == found.samples.keys() - {"x"}
    zeros = {
        key: np.moveaxis(np.zeros((2, *found.samples[key].shape[1:]), np.float32), 0, 1) for key in states
    }
    first, alone = served.infer(name, {"x": x}), engine(found.model)
    assert_same(first, alone({"x": x, **zeros}))
    carried = {key: first[output] for key, output in states.items()}
    assert_same(served.infer(name, {"x": x, **carried}), alone({"x": x, **carried}))
    rows = json.dumps({"inputs": {"x": x.tolist()}}).encode()
    status, body = served.server.request("POST", f"/predict/{name}", rows)
    assert status == 200
    told = {key: np.asarray(value, np.float32) for key, value in json.loads(body)["outputs"].items()}
    assert_same(told, alone({"x": x, **zeros}))


@pytest.mark.parametrize("name", ["samples-last", "two-inputs", "threes", "gru", "layers", "classes"])
@pytest.mark.parametrize("with_data", [True, False])
def test_load_asks_with_one_sample_wherever_the_samples_lie(
    served: Served, name: str, with_data: bool
) -> None:
    found = GRAPHS[name]
    samples = {key: array for key, array in found.samples.items() if name not in STATES or key == "x"}
    request = LoadRequest(f"http://127.0.0.1:{served.server.port}", name, rates=(5.0,))
    prepared = prepare(request, samples if with_data else None, "theirs")
    assert len(prepared.target.messages) == (12 if with_data else 64)
