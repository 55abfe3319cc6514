"""Every built-in model: its size is the published one, and it learns, exports and answers by itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.unit.small import KWARGS
from torch import Tensor, nn

from lissom.logs import quiet_libraries
from lissom.models.catalogue import MODEL_PRESETS, Entry, catalogue, cost
from lissom.registry import MODELS, resolve

PUBLISHED = {
    "mlp": (266_610, 1e-9),
    "resnet20": (0.27e6, 0.03),
    "resnet32": (0.46e6, 0.03),
    "resnet56": (0.85e6, 0.03),
    "resnet18": (11_689_512, 1e-9),
    "resnet34": (21_797_672, 1e-9),
    "resnet50": (25_557_032, 1e-9),
    "vit": (86_567_656, 0.001),
    "bert": (110e6, 0.02),
    "bert_mlm": (110e6, 0.02),
    "gpt": (124_439_808, 0.001),
}
"""Parameters, and how far ours may be from them."""

MULTIPLY_ACCUMULATES = {"resnet18": 1.814e9, "resnet34": 3.664e9, "resnet50": 4.089e9, "vit": 17.56e9}
"""As torchvision and fvcore count them, at 224x224."""


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = resolve(name, known=MODELS)(**KWARGS[name])
    assert isinstance(model, nn.Module)
    return model


def samples(name: str, batch: int) -> Tensor:
    """Random samples of the shape that a small model takes."""
    generator = torch.Generator().manual_seed(1)
    takes = inspect.signature(resolve(name, known=MODELS)).parameters
    if "vocab_size" in takes:
        tokens = torch.randint(1, KWARGS[name]["vocab_size"], (batch, 8), generator=generator)
        tokens[0, -2:] = 0
        return tokens
    shape = (64,) if "in_features" in takes else (3, 8, 8)
    return torch.randn(batch, *shape, generator=generator)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small are slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in catalogue()}


@pytest.mark.parametrize("name", MODELS)
def test_a_default_has_at_most_a_million_parameters(name: str, entries: dict[str, Entry]) -> None:
    model = resolve(name, known=MODELS)()
    assert sum(parameter.numel() for parameter in model.parameters()) == entries[name].num_parameters <= 1e6
    assert 1e4 < entries[name].flops < 1e9


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_the_papers_size_is_the_published_one(
    name: str, published: tuple[float, float], entries: dict[str, Entry]
) -> None:
    parameters, tolerance = published
    assert entries[name].paper_parameters == pytest.approx(parameters, rel=tolerance)


@pytest.mark.parametrize(("name", "published"), MULTIPLY_ACCUMULATES.items())
def test_the_papers_work_is_the_published_one(name: str, published: float, entries: dict[str, Entry]) -> None:
    found = entries[name].paper_flops
    assert found == pytest.approx(2 * published, rel=0.01)


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_the_arguments_that_are_shown_give_the_papers_size(name: str, entries: dict[str, Entry]) -> None:
    kwargs = entries[name].paper_kwargs
    assert kwargs is not None
    assert cost(name, kwargs)[0] == entries[name].paper_parameters


def test_only_a_model_without_a_paper_has_no_papers_size(entries: dict[str, Entry]) -> None:
    absent = {name for name, entry in entries.items() if entry.paper_parameters is None}
    assert absent == MODELS.keys() - MODEL_PRESETS.keys() == {"rnn"}
    assert {name for name, entry in entries.items() if entry.paper_kwargs is None} == absent


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
@pytest.mark.parametrize("directions", [1, 2])
def test_the_work_of_a_recurrent_layer_is_its_matrices_at_every_position(
    name: str, gates: int, directions: int
) -> None:
    kwargs = {"embedding": 8, "hidden": 16, "num_classes": 4, "bidirectional": directions == 2}
    recurrent = 128 * 2 * gates * 16 * (8 + 16) * directions
    assert cost(name, kwargs)[1] == recurrent + 2 * 16 * directions * 4


@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    model = made(name)
    outputs = model(samples(name, 4))
    (outputs * torch.randn_like(outputs)).sum().backward()
    dead = [key for key, parameter in model.named_parameters() if not _reached(parameter)]
    assert dead == []


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_is_answered_as_if_it_were_alone(name: str) -> None:
    model, batch = made(name).eval(), samples(name, 4)
    with torch.inference_mode():
        together = model(batch)
        alone = torch.cat([model(sample) for sample in batch.split(1)])
    spread = max(1.0, float(together.abs().max()))  # a deep network that is not trained gives hundreds
    assert torch.allclose(together, alone, atol=1e-5 * spread)
    assert not torch.allclose(together[:1], together[1:2], atol=1e-5 * spread)


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_model_answers_the_same_at_every_batch_size(name: str) -> None:
    model = made(name).eval()
    with quiet_libraries():
        program = torch.onnx.export(
            model,
            (samples(name, 3),),
            dynamic_shapes=({0: torch.export.Dim.AUTO},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    [given] = session.get_inputs()
    for batch in (1, 2, 5):
        inputs = samples(name, batch)
        found: Any = session.run(None, {given.name: inputs.numpy()})[0]
        with torch.inference_mode():
            wanted = model(inputs).numpy()
        spread = max(1.0, float(np.abs(wanted).max()))
        assert np.allclose(found, wanted, atol=1e-4 * spread)
