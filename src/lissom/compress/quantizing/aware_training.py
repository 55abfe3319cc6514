"""Quantization-aware training: the model is trained while its layers round, and learns to live with it.

Before every convolution and product, inputs and weights are rounded and taken back to float32; gradients pass
as if nothing had been rounded (Jacob et al., arXiv 1712.05877). torchao puts that into the exported graph,
with batch norms folded into the weights that are rounded, as they will be. Ranges follow the data at first
and are frozen for the last part, so that the weights meet steps that do not move any more.

What is kept are the weights, in the model as it was: it is exported and calibrated like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lissom.adaptation import answer_in_calls, call_size
from lissom.causes import told
from lissom.compress.quantizing.scheme import Scheme
from lissom.errors import ModelError
from lissom.logs import quiet_libraries
from lissom.models.stages import Context
from lissom.models.target_scale import TargetScale, find_target_scale, standardized
from lissom.models.training import fit
from lissom.recipe import Optimization
from lissom.runtime.arrays import tensor_of

_FROZEN = 0.4
"""Share of the steps, at the end, in which ranges stay."""
_AVERAGING = 0.01


def train_rounded(
    model: nn.Module, config: Optimization, context: Context, scheme: Scheme
) -> list[dict[str, float]]:
    """Train a model in place with rounding; gives the figures of each epoch.

    Raises:
        ModelError: torch cannot capture the model.
    """
    scale = find_target_scale(model, context.data, context.task)
    with standardized(model, scale, context.data):
        return _train(model, config, context, scheme, scale)


def _train(
    model: nn.Module, config: Optimization, context: Context, scheme: Scheme, scale: TargetScale | None
) -> list[dict[str, float]]:
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rounded = _with_rounding(model, context, scheme)
    number = -(-len(context.data.indices["train"]) // config.batch_size) // config.accumulate
    freeze = _freezing(rounded, round((1 - _FROZEN) * config.epochs * max(1, number)))
    history = fit(rounded, context, config, after_step=freeze, targets=scale)
    weights = rounded.graph.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model.eval()
    return history


class _Rounded(nn.Module):
    """An exported graph, whose dropout and batch norms follow the mode that the loop asks for."""

    def __init__(self, graph: Any, size: int) -> None:
        super().__init__()
        self.graph, self.size = graph, size
        self.num_steps: Tensor
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self._trains: bool | None = None

    def forward(self, *inputs: Tensor) -> Any:
        from torchao.quantization.pt2e import (
            move_exported_model_to_eval,
            move_exported_model_to_train,
        )

        if (
            self._trains is not self.training
        ):  # Lightning sets the flag alone when it goes on after validation
            move = move_exported_model_to_train if self.training else move_exported_model_to_eval
            move(self.graph)
            self._trains = self.training
        return answer_in_calls(self.graph, inputs, self.size) if self.size else self.graph(*inputs)

    def train(self, mode: bool = True) -> Self:
        """Set the flag; modules of an exported graph have no mode of their own."""
        self.training = mode
        return self


def _with_rounding(model: nn.Module, context: Context, scheme: Scheme) -> _Rounded:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    example = tuple(tensor_of(array) for array in context.probe_inputs().values())
    size = call_size(model)
    if size:
        example = tuple(tensor[torch.arange(size) % len(tensor)] for tensor in example)
    batch = {} if size else {0: torch.export.Dim.AUTO}
    model.train()
    try:
        program = torch.export.export(model, example, dynamic_shapes=tuple(batch for _ in example))
        return _Rounded(prepare_qat_pt2e(program.module(), _layer_quantizer(scheme)), size)
    except Exception as exc:  # the user's forward, or a pattern that torchao does not know
        raise ModelError(
            f"the model cannot be captured for quantization-aware training:{told(exc)}",
            hint="--mode static needs no training",
        ) from exc


def _layer_quantizer(scheme: Scheme) -> Any:
    """Tells torchao what to round: input and weight of every convolution and linear layer."""
    from torchao.quantization.pt2e import (
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    around_zero = scheme.symmetric
    activation = QuantizationSpec(
        dtype=torch.int8 if around_zero else torch.uint8,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
            observer=MovingAverageMinMaxObserver, averaging_constant=_AVERAGING
        ),
        quant_min=-127 if around_zero else 0,
        quant_max=127 if around_zero else 255,
        qscheme=torch.per_tensor_symmetric if around_zero else torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0
        ),
        quant_min=-scheme.weight_steps,
        quant_max=scheme.weight_steps,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    layers = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)

    class Layers(Quantizer):  # type: ignore[misc]
        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.op == "call_function" and node.target in layers:
                    inputs = {node.args[0]: activation, node.args[1]: weight}
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map=inputs, _annotated=True
                    )
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            del model

    return Layers()


def _freezing(model: _Rounded, after: int) -> Callable[[], None]:
    """Called after every step, it stops the ranges from moving when `after` steps were made."""
    from torchao.quantization.pt2e import disable_observer

    def freeze() -> None:
        model.num_steps += 1  # a buffer, so that a training that goes on counts on
        if int(model.num_steps) == after:
            model.apply(disable_observer)

    return freeze
