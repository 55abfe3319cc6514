"""Units of recurrent layers are removed without a change of what the others compute."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lissom.compress.recurrence import keep_inputs, keep_units, suffixes, unit_rows

KINDS = [nn.RNN, nn.LSTM, nn.GRU]
SIZE, INPUTS = 6, 5


def layer(kind: type[nn.RNNBase], **options: object) -> nn.RNNBase:
    torch.manual_seed(0)
    built = kind(INPUTS, SIZE, batch_first=True, **options)
    assert isinstance(built, nn.RNNBase)
    return built.eval()


def states(model: nn.RNNBase, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(inputs)[0]
    return found


def silence(model: nn.RNNBase, units: list[int]) -> None:
    """Nothing inside the layer hears these units, and as units they are the weakest."""
    with torch.no_grad():
        for level in range(model.num_layers):
            for suffix in suffixes(model, level):
                for kind in ("ih", "hh"):
                    weight = getattr(model, f"weight_{kind}{suffix}")
                    rows = [gate * SIZE + unit for gate in range(len(weight) // SIZE) for unit in units]
                    weight[rows] *= 1e-3
                getattr(model, f"weight_hh{suffix}")[:, units] = 0
                if level:
                    directions = 1 + model.bidirectional
                    heard = [direction * SIZE + unit for direction in range(directions) for unit in units]
                    getattr(model, f"weight_ih{suffix}")[:, heard] = 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_units_that_stay_compute_what_they_did_when_nothing_hears_the_others(
    kind: type[nn.RNNBase], bidirectional: bool, num_layers: int
) -> None:
    model = layer(kind, num_layers=num_layers, bidirectional=bidirectional)
    gone, kept = [1, 4], [0, 2, 3, 5]
    silence(model, gone)
    inputs = torch.randn(3, 7, INPUTS)
    before = states(model, inputs)
    keep_units(model, [kept] * (1 + bidirectional))
    assert model.hidden_size == 4
    columns = [direction * SIZE + unit for direction in range(1 + bidirectional) for unit in kept]
    torch.testing.assert_close(states(model, inputs), before[:, :, columns])


@pytest.mark.parametrize("kind", KINDS)
def test_each_direction_keeps_units_of_its_own(kind: type[nn.RNNBase]) -> None:
    model = layer(kind, bidirectional=True)
    with torch.no_grad():
        for suffix in suffixes(model, 0):
            getattr(model, f"weight_hh{suffix}").zero_()
    inputs = torch.randn(2, 4, INPUTS)
    before = states(model, inputs)
    keep_units(model, [[0, 1], [3, 5]])
    torch.testing.assert_close(states(model, inputs), before[:, :, [0, 1, SIZE + 3, SIZE + 5]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_inputs_that_are_zero_can_be_removed(kind: type[nn.RNNBase], bidirectional: bool) -> None:
    model = layer(kind, bidirectional=bidirectional)
    inputs = torch.randn(2, 4, INPUTS)
    inputs[:, :, [1, 2]] = 0
    before = states(model, inputs)
    keep_inputs(model, [0, 3, 4])
    assert model.input_size == 3
    torch.testing.assert_close(states(model, inputs[:, :, [0, 3, 4]]), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_is_all_its_gates_and_what_hears_it(kind: type[nn.RNNBase]) -> None:
    model = layer(kind)
    gates = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    assert unit_rows(model, "_l0").shape == (SIZE, gates * (INPUTS + SIZE) + gates * SIZE)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.weight_hh_l0[:, 2] += 1
        changed.weight_ih_l0[3] += 1
    differing = (unit_rows(model, "_l0") != unit_rows(changed, "_l0")).any(dim=1)
    assert {2, 3} <= set(differing.nonzero().flatten().tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_lost_units_still_learns(kind: type[nn.RNNBase]) -> None:
    model = layer(kind, num_layers=2, bidirectional=True).train()
    keep_units(model, [[0, 1, 2], [1, 3, 5]])
    model(torch.randn(2, 4, INPUTS))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
