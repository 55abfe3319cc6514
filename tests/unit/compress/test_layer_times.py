"""The table of layers: what is timed, what is predicted from it, and that every graph opens and runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.unit.compress.hugging_face import gpt2
from tests.unit.compress.scenes import built, samples
from torch import nn

from lissom.compress.layer_times import Layer, LayerTimes, calls_of, graph_of
from lissom.registry import MODELS


def layers_of(model: nn.Module, *example: torch.Tensor) -> list[Layer]:
    return [layer for call in calls_of(model.eval(), example) for layer in call.layers]


def weights(content: bytes, shape: Sequence[int]) -> float:
    """In place of a time: the weights of a graph, over a thousand, beside a call that takes 5."""
    graph = onnx.load_from_string(content).graph
    return 5 + sum(int(np.prod(weight.dims)) for weight in graph.initializer) / 1000


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_layer_is_a_graph_that_runs(name: str) -> None:
    layers = layers_of(built(name), *(tensor[:1] for tensor in samples(name).example))
    assert layers
    for layer in set(layers):
        for copies in (1, 5):
            content = graph_of(layer, copies)
            onnx.checker.check_model(onnx.load_from_string(content))
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            (output,) = session.run(None, {"x": np.ones(layer.shape, np.float32)})
            assert (
                len(onnx.load_from_string(content).graph.output[0].type.tensor_type.shape.dim) == output.ndim
            )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(8, 4, 3, padding="same", dilation=2), (1, 8, 10)),
        (nn.Conv2d(8, 4, (3, 5), stride=(2, 1), padding=(1, 2), groups=4), (1, 8, 9, 7)),
        (nn.Conv2d(4, 8, 4, padding="same"), (1, 4, 6, 6)),
        (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5)),
        (nn.Linear(6, 3), (1, 7, 6)),
        (nn.Linear(6, 3), (5, 6)),
    ],
)
def test_a_graph_gives_the_shape_that_the_layer_gives(layer: nn.Module, shape: tuple[int, ...]) -> None:
    (found,) = layers_of(layer, torch.zeros(shape))
    session = onnxruntime.InferenceSession(graph_of(found, 1), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.zeros(shape, np.float32)})
    with torch.inference_mode():
        assert output.shape == layer(torch.zeros(shape)).shape


def test_a_stack_of_recurrent_layers_is_a_layer_each() -> None:
    lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
    first, second = layers_of(lstm, torch.zeros(1, 5, 8))
    assert first == Layer("LSTM", (5, 1, 8), (2, 16))
    assert second == Layer("LSTM", (5, 1, 32), (2, 16))


def test_the_turned_layers_of_transformers_are_known() -> None:
    pytest.importorskip("transformers")
    layers = layers_of(gpt2(), torch.ones(1, 4, dtype=torch.int64))
    assert any(layer.weight[1] == 3 * layer.weight[0] for layer in layers)  # queries, keys and values in one


def test_layers_of_one_shape_are_timed_once() -> None:
    timed: list[bytes] = []

    def time(content: bytes, shape: Sequence[int]) -> float:
        timed.append(content)
        return weights(content, shape)

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    times = LayerTimes(model, [torch.zeros(2, 8)], time)
    assert len(timed) == 2 * 2
    times.predicted(model)
    assert len(timed) == 2 * 2


def test_what_a_call_costs_is_not_the_layers() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10))
    times = LayerTimes(model, [torch.zeros(1, 10)], weights)
    assert times.by_module(model) == pytest.approx({"0": 0.2, "2": 0.2})


def test_the_whole_model_is_predicted_to_take_its_own_time() -> None:
    short = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10))
    long = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 100))
    assert LayerTimes(short, [torch.zeros(1, 10)], weights).predicted(short) == pytest.approx(1.0)
    assert LayerTimes(long, [torch.zeros(1, 100)], weights).predicted(long) == pytest.approx(1.0)


def test_layers_and_what_stands_between_them_become_faster() -> None:
    times = LayerTimes(nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 10)), [torch.zeros(1, 10)], weights)
    half = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    assert times.predicted(half) == pytest.approx(0.1 + 0.1 + 0.6 * 20 / 30)


def test_where_layers_alone_take_longer_they_are_scaled() -> None:
    long = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 100))  # 40 times the whole model's time
    times = LayerTimes(long, [torch.zeros(1, 100)], weights)
    assert sum(times.by_module(long).values()) == pytest.approx(1.0)
    half = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    assert times.predicted(half) == pytest.approx(0.5)
