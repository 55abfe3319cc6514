"""torch eager, and torch with inductor: the same model, called as it is or compiled to native code.

Threads are a setting of the whole process in torch: the runtime opened last decides for all of them.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from lissom.artifact import Signature
from lissom.causes import place_of, reason_of
from lissom.errors import LissomError, MachineError, ModelError, RequestError
from lissom.logs import quiet_libraries
from lissom.optional import require
from lissom.runtime.arrays import array_of, tensor_of
from lissom.runtime.base import Layer, LayerTime, Runtime
from lissom.runtime.machine import compiler
from lissom.structure import load_model


def call_model(
    model: Any, signature: Signature, inputs: Mapping[str, np.ndarray], *, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Call a torch model with arrays by name, positionally in the order of the signature.

    Raises:
        ModelError: a token id is larger than the model's vocabulary.
    """
    arguments = [tensor_of(inputs[spec.name]).to(device) for spec in signature.inputs]
    try:
        with torch.inference_mode():
            outputs = model(*arguments)
    except IndexError as exc:
        tokens = [spec.name for spec in signature.inputs if inputs[spec.name].dtype.kind in "iu"]
        if tokens and is_lookup(exc):
            raise _outside_vocabulary({name: inputs[name] for name in tokens}) from exc
        raise
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return {spec.name: array_of(tensor) for spec, tensor in zip(signature.outputs, tensors, strict=True)}


def answer_request(
    model: Any, signature: Signature, inputs: Mapping[str, np.ndarray], *, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """As `call_model`, of a caller's values.

    Raises:
        RequestError: the forward refuses them; where it did is in the hint, which a server keeps to itself.
    """
    try:
        return call_model(model, signature, inputs, device=device)
    except ModelError as exc:
        raise RequestError(exc.message, hint=exc.hint) from exc
    except (LissomError, MemoryError):
        raise
    except Exception as exc:  # the user's forward may raise anything
        place = place_of(exc)
        raise RequestError(
            f"the model does not take these values:\n  {reason_of(exc)}",
            hint=f"the forward ended at {place}" if place else "",
        ) from exc


def is_lookup(exc: IndexError) -> bool:
    """True where a number was looked up in a table that has no such row.

    >>> is_lookup(IndexError("index out of range in self"))
    True
    >>> is_lookup(IndexError("index -1 is out of bounds for dimension 1 with size 0"))
    False
    """
    found = re.match(r"index (-?\d+) is out of bounds for dimension 0 with size", str(exc))
    return "out of range in self" in str(exc) or (found is not None and int(found[1]) >= 0)


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
    devices = ("cpu", "cuda")

    def _open_impl(self) -> None:
        torch.set_num_threads(self.threads)
        self.model: Any = _on_device(load_model(self.artifact, plain=True), self.device)

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return answer_request(self.model, self.signature, inputs, device=self.device)

    def _layers_impl(self) -> list[Layer]:
        """Modules with weights: eager computes in the type of those."""
        found = (
            (name, module, module._parameters.get("weight")) for name, module in self.model.named_modules()
        )
        return [
            Layer(
                name,
                type(module).__name__,
                str(weight.dtype).removeprefix("torch."),
                self.device,
                weight.ndim > 1,
            )
            for name, module, weight in found
            if weight is not None
        ]

    def _layer_times_impl(self, inputs: Mapping[str, np.ndarray], num_calls: int) -> list[LayerTime]:
        """Modules without modules inside; what a model computes between them is not told."""
        spent: dict[str, list[float]] = defaultdict(list)
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if name and not any(module.children()):
                    _watch(module, spent[name], self.device, stack)
            for _ in range(num_calls):
                for times in spent.values():
                    times.append(0.0)
                self._infer_impl(inputs)
        weights = {name: module._parameters.get("weight") for name, module in self.model.named_modules()}
        return [
            LayerTime(
                name,
                type(self.model.get_submodule(name)).__name__,
                "" if (weight := weights[name]) is None else str(weight.dtype).removeprefix("torch."),
                (name,),
                statistics.median(times),
            )
            for name, times in spent.items()
            if any(times)
        ]


def _watch(module: nn.Module, times: list[float], device: str, stack: ExitStack) -> None:
    """Add the time of every call of a module to the last of `times`, until the stack is closed."""
    started = [0.0]

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(*_: Any) -> None:
        started[0] = now()

    def after(*_: Any) -> None:
        times[-1] += now() - started[0]

    for handle in (module.register_forward_pre_hook(before), module.register_forward_hook(after)):
        stack.callback(handle.remove)


class Inductor(Runtime):
    """torch.compile with the inductor backend, weights frozen into the code; needs a C++ compiler."""

    name = "inductor"
    thread_safe = False
    max_batch = 1
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    compiling: ClassVar[Mapping[str, Any]] = {"options": {"freezing": True}}
    """Arguments of torch.compile."""

    def _open_impl(self) -> None:
        self._check_machine()
        torch.set_num_threads(self.threads)
        model = _on_device(load_model(self.artifact, plain=True), self.device)
        example = {
            spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], dtype=spec.dtype)
            for spec in self.signature.inputs
        }
        with quiet_libraries():
            torch._dynamo.reset()
            self.model: Any = torch.compile(model, dynamic=False, **self.compiling)
            call_model(self.model, self.signature, example, device=self.device)

    def _check_machine(self) -> None:
        if compiler() is None:
            raise MachineError("inductor is absent: there is no C++ compiler", hint="apt-get install g++")

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return answer_request(self.model, self.signature, inputs, device=self.device)


class TorchTensorRt(Inductor):
    """torch.compile with the backend of Torch-TensorRT; what TensorRT cannot run stays with torch."""

    name = "torch_tensorrt"
    devices = ("cuda",)
    compiling: ClassVar[Mapping[str, Any]] = {"backend": "torch_tensorrt"}

    def _check_machine(self) -> None:
        require("torch_tensorrt", extra="gpu")  # registers the backend


def _on_device(model: nn.Module, device: str) -> nn.Module:
    """The model on a device.

    Raises:
        MachineError: torch has no such device here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError("cuda was asked for, and torch finds no GPU", hint="leave --device out")
    return model.to(device)
