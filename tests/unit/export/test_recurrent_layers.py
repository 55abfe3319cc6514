"""Recurrent layers are exported without walking through their steps, and are the same afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._decomp import decomposition_table
from torch._subclasses import FakeTensorMode

from lissom.export.recurrent_layers import not_unrolled

STEPS = 100_000  # walking through them would take hours


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *(
            (kind, more)
            for kind in (nn.LSTM, nn.GRU)
            for more in ({}, {"bidirectional": True}, {"num_layers": 3})
        ),
        (nn.LSTM, {"proj_size": 2}),
    ],
)
def test_shapes_are_those_that_the_layer_gives(
    kind: type[nn.RNNBase], batch_first: bool, settings: dict[str, int]
) -> None:
    layer = kind(4, 6, batch_first=batch_first, **settings)
    outputs, state = layer(torch.zeros(3, 5, 4))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, not_unrolled():
        found, found_state = layer(mode.from_tensor(torch.zeros(3, 5, 4)))
    assert found.shape == outputs.shape
    for one, other in zip(found_state, state, strict=True):
        assert one.shape == other.shape


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_long_sequence_exports_at_once(kind: type[nn.RNNBase]) -> None:
    layer = kind(4, 6, batch_first=True).eval()
    batch = torch.export.Dim.AUTO
    with not_unrolled():
        program = torch.onnx.export(
            layer, (torch.zeros(2, STEPS, 4),), dynamic_shapes=({0: batch},), dynamo=True, verbose=False
        )
    assert program is not None
    assert kind.__name__ in {node.op_type for node in program.model_proto.graph.node}


def test_torch_is_as_it_was_afterwards() -> None:
    layer, inputs = nn.LSTM(4, 6), torch.randn(5, 3, 4)
    kernels, table = dict(torch.ops.aten.lstm.input.py_kernels), dict(decomposition_table)
    before, _ = layer(inputs)
    with not_unrolled():
        within, _ = layer(inputs)
        assert decomposition_table != table
        decomposition_table["new"] = table  # type: ignore[index]  (as torch registers what it imports late)
    after, _ = layer(inputs)
    assert torch.equal(before, within)
    assert torch.equal(before, after)
    assert torch.ops.aten.lstm.input.py_kernels == kernels
    assert decomposition_table.pop("new") is table  # type: ignore[call-overload]
    assert decomposition_table == table
