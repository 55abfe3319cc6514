"""torch eager, and torch with inductor: the same model, called as it is or compiled to native code.

Threads are a setting of the whole process in torch: the runtime opened last decides for all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lissom.artifact import Signature
from lissom.errors import MachineError, ModelError
from lissom.logs import quiet_libraries
from lissom.runtime.base import Runtime
from lissom.runtime.machine import compiler
from lissom.structure import load_model


def call_model(
    model: Any, signature: Signature, inputs: Mapping[str, np.ndarray], *, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Call a torch model with arrays by name, positionally in the order of the signature.

    Raises:
        ModelError: a token id is larger than the model's vocabulary.
    """
    arguments = [torch.from_numpy(inputs[spec.name]).to(device) for spec in signature.inputs]
    try:
        with torch.inference_mode():
            outputs = model(*arguments)
    except IndexError as exc:
        if tokens := [spec.name for spec in signature.inputs if inputs[spec.name].dtype.kind in "iu"]:
            raise _outside_vocabulary({name: inputs[name] for name in tokens}) from exc
        raise
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return {spec.name: tensor.cpu().numpy() for spec, tensor in zip(signature.outputs, tensors, strict=True)}


def _outside_vocabulary(tokens: Mapping[str, np.ndarray]) -> ModelError:
    ranges = ", ".join(f"{name} holds {array.min()} to {array.max()}" for name, array in tokens.items())
    return ModelError(
        f"a token id lies outside the model's vocabulary: {ranges}",
        hint="use the tokens that the model was trained on, or build it with a larger vocab_size",
    )


class TorchEager(Runtime):
    """Plain torch, operator by operator."""

    name = "torch"
    thread_safe = True

    def _open_impl(self) -> None:
        torch.set_num_threads(self.threads)
        self.model: Any = load_model(self.artifact)

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return call_model(self.model, self.signature, inputs)

    def executed(self) -> dict[str, int]:
        """Layers that multiply, by the dtype of their weights: eager computes in that type."""
        weights = [module._parameters.get("weight") for module in self.model.modules()]
        kinds = (
            str(weight.dtype).removeprefix("torch.")
            for weight in weights
            if weight is not None and weight.ndim > 1
        )
        return dict(Counter(kinds))


class Inductor(Runtime):
    """torch.compile with the inductor backend; needs a C++ compiler."""

    name = "inductor"
    thread_safe = False
    any_batch_size = False

    def _open_impl(self) -> None:
        if compiler() is None:
            raise MachineError("inductor is absent: there is no C++ compiler", hint="apt-get install g++")
        torch.set_num_threads(self.threads)
        model = load_model(self.artifact)
        example = {
            spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], dtype=spec.dtype)
            for spec in self.signature.inputs
        }
        with quiet_libraries():
            torch._dynamo.reset()
            self.model: Any = torch.compile(model, dynamic=False)
            call_model(self.model, self.signature, example)

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return call_model(self.model, self.signature, inputs)
