"""Every caller's answer is the model's own, whatever a model does with its batch.

Right answers come from ONNX Runtime, torch and numpy called directly, with the rows of one caller alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.foreign.batches import KINDS, Graph, engine, floats, graph, node, whole
from tests.foreign.random_batches import ACROSS, ENDS, WITHIN, Behaviour, drawn, serve, served
from tests.unit.serve.asgi import send_request

import lissom
from lissom.artifact import Batching, Signature, TensorSpec
from lissom.errors import RequestError
from lissom.export.batch_axes import inputs_of, settle_axes
from lissom.logs import NoProgress
from lissom.pipeline import load_data as load_recipe_data
from lissom.pipeline import make_artifacts
from lissom.recipe import Recipe
from lissom.runtime.base import open_runtime
from lissom.runtime.batching import prove_batching
from lissom.runtime.confirmation import holds
from lissom.runtime.layout import Layout
from lissom.serve.app import Application
from lissom.serve.repository import Repository
from lissom.verbs.shared import data_for

Tensors = Mapping[str, np.ndarray]
Call = Callable[[Tensors], Mapping[str, np.ndarray]]
MEMBERS = [
    pytest.param(kind, name, id=f"{kind}: {name}") for kind, members in KINDS.items() for name in members
]


def settled(found: Graph) -> tuple[Any, Signature]:
    names = [value.name for value in inputs_of(found.model)]
    specs = [
        TensorSpec(
            name=name, dtype=found.samples[name].dtype.name, shape=("batch", *found.samples[name].shape[1:])
        )
        for name in names
    ]
    return settle_axes(found.model, specs, {n: a[:8] for n, a in found.samples.items()}, source="npz")


def assert_same(found: Any, wanted: Tensors) -> None:
    assert not isinstance(found, BaseException), found
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def requests_of(samples: Tensors, layout: Layout, counts: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """What callers send: rows of the samples, every caller others."""
    found, start = [], 0
    for count in counts:
        index = np.arange(start, start + count) % len(next(iter(samples.values())))
        found.append(layout.tensors({name: array[index] for name, array in samples.items()}))
        start += count
    return found


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_the_axes_are_those_of_the_graph(kind: str, name: str) -> None:
    found = KINDS[kind][name]()
    _, signature = settled(found)
    assert signature.batching is not None
    assert (signature.batching.joins, signature.batching.outputs) == (found.joins, found.outputs)
    assert bool(signature.batching.reason) != found.joins


@pytest.mark.parametrize(("kind", "name"), [one for one in MEMBERS if "random" not in str(one.id)])
def test_every_caller_gets_what_the_model_says_to_it_alone(kind: str, name: str) -> None:
    found = KINDS[kind][name]()
    model, signature = settled(found)
    layout, call, alone = Layout(signature), engine(model), engine(found.model)
    requests = requests_of(found.samples, layout, [1, 2, 1, 3, 1, 1, 2, 1])
    assert signature.batching is not None
    sizes: list[int] = []

    def run(tensors: Tensors) -> dict[str, np.ndarray]:
        sizes.append(layout.num_rows(tensors))
        return layout.infer_request(call, tensors)

    answers = serve(run, requests, signature.batching)
    for request, answer in zip(requests, answers, strict=True):
        assert_same(answer, alone(request))
    assert (max(sizes) > 3) == found.joins


@pytest.mark.parametrize(("kind", "name"), [one for one in MEMBERS if "random" not in str(one.id)])
def test_samples_have_the_answers_of_rows_alone_wherever_those_exist(kind: str, name: str) -> None:
    """As evaluation, prediction and verification ask; what reads a batch has no answers of rows alone."""
    found = KINDS[kind][name]()
    if kind in ("statistics over the batch", "neighbours", "sorted or filtered"):
        return
    model, signature = settled(found)
    layout, alone = Layout(signature), engine(found.model)
    answers = layout.infer_samples(engine(model), found.samples)
    for index in range(len(found.samples["x"])):
        row = layout.tensors({name: array[index : index + 1] for name, array in found.samples.items()})
        for output, array in alone(row).items():
            np.testing.assert_allclose(
                answers[output][index].reshape(-1), array.reshape(-1), rtol=1e-4, atol=1e-5
            )


def test_callers_with_other_values_of_an_input_for_all_are_not_joined() -> None:
    found = KINDS["an input for all samples"]["scales"]()
    model, signature = settled(found)
    layout, alone = Layout(signature), engine(found.model)
    requests = [
        {"x": found.samples["x"][index : index + 1], "s": np.full(4, index % 3, np.float32)}
        for index in range(9)
    ]
    assert signature.batching is not None
    call = engine(model)
    answers = serve(lambda one: layout.infer_request(call, one), requests, signature.batching)
    for request, answer in zip(requests, answers, strict=True):
        assert_same(answer, alone(request))
    samples = {"x": found.samples["x"], "s": np.arange(48, dtype=np.float32).reshape(12, 4)}
    rows = layout.infer_samples(call, samples)["y"]
    for index in range(12):
        wanted = alone({"x": samples["x"][index : index + 1], "s": samples["s"][index]})["y"]
        np.testing.assert_allclose(rows[index : index + 1], wanted, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from([*WITHIN, *WITHIN, *ACROSS]), max_size=3),
    ends=st.lists(st.sampled_from(list(ENDS)), min_size=1, max_size=2, unique=True),
    axis=st.integers(0, 1),
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=9),
    seed=st.integers(0, 1000),
)
def test_no_random_model_hands_out_the_rows_of_another(
    steps: list[str], ends: list[str], axis: int, counts: list[int], seed: int
) -> None:
    """`benchmarks/serving_compositions.py` asks 2,000 of them."""
    model = Behaviour(steps, ends, axis)
    batching, faults = served(model, counts, seed)
    assert faults == []
    if model.is_by_row:
        assert batching.joins, batching.reason


def test_what_is_confirmed_in_few_calls_is_what_all_of_them_prove() -> None:
    told_both_ways = set()
    for seed in range(120):
        model, _ = drawn(seed)
        axes = {end: ENDS[end][1] for end in model.ends}
        if None in axes.values():
            continue
        samples = {"x": np.random.default_rng(seed).normal(size=(8, 5)).astype(np.float32)}
        proven = prove_batching(model, samples, [{"x": model.axis}])
        assert proven is not None
        told = Batching(inputs={"x": model.axis}, outputs=axes, joins=True)
        confirmed = holds(model, samples, told, precision="float32", most=32)
        assert proven.joins or not confirmed, (model, proven.reason)
        if not {"classes", "whole numbers"} >= set(model.ends):
            assert confirmed == proven.joins, (model, proven.reason)
            told_both_ways.add(confirmed)
    assert told_both_ways == {True, False}


def run_stage(folder: Any, found: Graph, leave_out: Sequence[str] = ()) -> Any:
    """The artifact that `load` makes of a file and an NPZ."""
    onnx.save(found.model, folder / "theirs.onnx")
    np.savez(folder / "theirs.npz", **{n: a for n, a in found.samples.items() if n not in leave_out})
    recipe = Recipe.from_document(
        {
            "name": "theirs",
            "data": {"source": str(folder / "theirs.npz")},
            "model": {"source": str(folder / "theirs.onnx")},
            "stages": [{"stage": "load"}],
        }
    )
    (folder / "run").mkdir()
    (made,), _ = make_artifacts(recipe, load_recipe_data(recipe), folder / "run", progress=NoProgress())
    return made


def fixed(
    nodes: list[Any], shape: list[Any], outputs: Mapping[str, Any], constants: Any, joins: bool
) -> Graph:
    samples = {"x": floats(12, *[size for size in shape if size != 1])}
    return Graph(graph(nodes, {"x": shape}, outputs, constants), samples, {}, joins)


FIXED = {
    "convolution": lambda: fixed(
        [node("Conv", "x w", "y", pads=[1, 1])], [1, 4, 8], {"y": [1, 5, 8]}, {"w": floats(5, 4, 3)}, True
    ),
    "a shape that is written out": lambda: fixed(
        [node("Reshape", "x s", "r"), node("MatMul", "r w", "y")],
        [1, 4, 6],
        {"y": [1, 3]},
        {"s": whole(1, 24), "w": floats(24, 3)},
        True,
    ),
    "a first state that is written out": lambda: fixed(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("GRU", "t W R - - h", "Y Yh", hidden_size=5),
            node("Relu", "Yh", "y"),
        ],
        [1, 4, 6],
        {"y": [1, 1, 5]},
        {"W": floats(1, 15, 6), "R": floats(1, 15, 5), "h": floats(1, 1, 5)},
        False,
    ),
    "a mean over the batch": lambda: fixed(
        [node("ReduceMean", "x", "m", axes=[0]), node("Tanh", "m", "y")],
        [1, 4, 6],
        {"y": [1, 4, 6]},
        {},
        False,
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_batch_of_one_is_freed_where_that_is_right_and_else_runs_row_by_row(
    tmp_path: Any, name: str
) -> None:
    found = FIXED[name]()
    made = run_stage(tmp_path, found)
    assert made.manifest.signature.batching.joins == found.joins
    assert made.manifest.signature.batching.size == (None if found.joins else 1)
    alone = engine(found.model)
    for runtime in ("onnxruntime", "openvino"):
        with open_runtime(made, runtime, threads=1) as opened:
            answers = opened.infer_batch(found.samples)["y"]
            request = opened.infer_request(
                opened.layout.tensors({n: a[:3] for n, a in found.samples.items()})
            )
        for index, row in enumerate(found.samples["x"]):
            wanted = alone({"x": row[None]})["y"].reshape(-1)
            np.testing.assert_allclose(answers[index].reshape(-1), wanted, rtol=1e-3, atol=1e-4)
        assert request["y"].size == 3 * answers[0].size


@pytest.mark.parametrize("name", ["GRU", "LSTM", "two layers"])
def test_states_that_nobody_sends_are_zero_and_can_be_carried(tmp_path: Any, name: str) -> None:
    found = KINDS["states"][name]()
    states = [key for key in found.samples if key != "x"]
    made = run_stage(tmp_path, found, states)
    assert list(made.manifest.signature.batching.states) == states
    zeros = {
        key: np.moveaxis(np.zeros((2, *found.samples[key].shape[1:]), np.float32), 0, 1) for key in states
    }
    x = found.samples["x"][:2]
    with Repository.open([made.path], runtime="onnxruntime", threads=1) as models:
        answered = asyncio.run(models.models["theirs"].scheduler.submit({"x": x}))
        assert_same(answered, engine(found.model)({"x": x, **zeros}))


@pytest.mark.parametrize("name", ["GRU", "LSTM", "two layers"])
def test_a_verb_takes_data_without_the_states(tmp_path: Any, name: str) -> None:
    found = KINDS["states"][name]()
    states = [key for key in found.samples if key != "x"]
    made = run_stage(tmp_path, found, states)
    data = data_for(made.manifest, tmp_path / "theirs.npz")
    split = next(one for one, places in data.indices.items() if len(places))
    x = data.tensors(split)["x"]
    rows = len(x)
    zeros = {
        key: np.moveaxis(np.zeros((rows, *found.samples[key].shape[1:]), np.float32), 0, 1) for key in states
    }
    wanted = engine(found.model)({"x": x, **zeros})
    with open_runtime(made, "onnxruntime", threads=1) as opened:
        answers = opened.infer_batch(data.tensors(split))
        assert_same(opened.infer_request({"x": x}), wanted)
    assert_same(answers, {key: opened.layout.first_axis(key, array) for key, array in wanted.items()})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("another axis", "time-major"),
        ("states", "two layers"),
        ("no axis of the samples", "scalar"),
        ("statistics over the batch", "mean"),
        ("sorted or filtered", "highest first"),
    ],
)
def test_served_callers_get_their_own_rows(tmp_path: Any, kind: str, name: str) -> None:
    found = KINDS[kind][name]()
    made = run_stage(tmp_path, found)
    alone, layout = engine(found.model), Layout(made.manifest.signature)
    requests = requests_of(found.samples, layout, [1, 2, 1, 3, 1, 1, 2, 1])

    def body(tensors: Tensors) -> dict[str, Any]:
        entries = [
            {"name": key, "shape": list(array.shape), "datatype": "FP32", "data": array.reshape(-1).tolist()}
            for key, array in tensors.items()
        ]
        return {"inputs": entries}

    with Repository.open([made.path], runtime="onnxruntime", threads=1, max_delay_ms=20) as models:
        app = Application(models)

        async def ask() -> list[Any]:
            calls = [send_request(app, "POST", "/v2/models/theirs/infer", body(one)) for one in requests]
            described = send_request(app, "GET", "/v2/models/theirs")
            return await asyncio.gather(*calls, described)

        *responses, told = asyncio.run(ask())
    assert ("share a call" in told.json["properties"]["batching"]) == found.joins
    for sent, response in zip(requests, responses, strict=True):
        assert response.status == 200
        outputs = {one["name"]: np.reshape(one["data"], one["shape"]) for one in response.json["outputs"]}
        assert_same(outputs, alone(sent))


@pytest.mark.parametrize("name", ["temperature", "scales"])
def test_an_input_for_all_samples_may_be_given_once(tmp_path: Any, name: str) -> None:
    found = KINDS["an input for all samples"][name]()
    made, x, once = run_stage(tmp_path, found), found.samples["x"][:3], np.asarray(found.samples["s"][0])
    right = engine(found.model)({"x": x, "s": once})["y"]
    shares = np.exp(right) / np.exp(right).sum(axis=-1, keepdims=True)
    for sent in ({"x": x, "s": once}, {"s": once, "x": x}, {"x": x, "s": found.samples["s"][:3]}):
        assert_same({"y": lissom.predict(made, sent, runtime="onnxruntime")[1]}, {"y": shares})
        with open_runtime(made, "onnxruntime", threads=1) as opened:
            assert_same(opened.infer_batch(sent), {"y": right})
    with pytest.raises(RequestError, match="'x' is a single number"):
        lissom.predict(made, {"x": np.float32(1), "s": once}, runtime="onnxruntime")
