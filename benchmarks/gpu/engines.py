"""How one torch model is run: eager, compiled, in fewer bits, or by another engine.

Every maker gets the model on the CPU and one batch on the device, and gives a call without arguments that
leaves its answer on the device. It raises `NotInstalled` when a library is missing; a fallback to another
device is an error, never a slower row.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Call = Callable[[], Tensor]


class NotInstalled(Exception):
    """A library that an engine needs is missing."""


class Engine(NamedTuple):
    """One way to run a model.

    Attributes:
        make: Gives the call.
        precision: Type in which it multiplies.
        cuda: True when it needs a GPU.
        parity: False when it changes the weights, so that its answers are no evidence.
    """

    make: Callable[[nn.Module, Tensor], Call]
    precision: str
    cuda: bool = False
    parity: bool = True


def needs(*modules: str) -> None:
    """Refuse what is not installed; nothing is imported."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise NotInstalled(module.partition(".")[0])


def _eager(kind: torch.dtype) -> Callable[[nn.Module, Tensor], Call]:
    def make(model: nn.Module, batch: Tensor) -> Call:
        found, given = _placed(model, batch, kind)
        return lambda: found(given)

    return make


def _tf32(model: nn.Module, batch: Tensor) -> Call:
    found, given = _placed(model, batch, torch.float32)

    def call() -> Tensor:
        with _allowing_tf32():
            answer: Tensor = found(given)
            return answer

    return call


def _cuda_graph(model: nn.Module, batch: Tensor) -> Call:
    found, given = _placed(model, batch, torch.float16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            found(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer: Tensor = found(given)

    def call() -> Tensor:
        graph.replay()
        return answer

    return call


def _compiled(kind: torch.dtype, **options: Any) -> Callable[[nn.Module, Tensor], Call]:
    def make(model: nn.Module, batch: Tensor) -> Call:
        found, given = _placed(model, batch, kind)
        torch._dynamo.reset()
        compiled = torch.compile(found, dynamic=False, **options)
        return lambda: compiled(given)

    return make


def _torchao(config: str) -> Callable[[nn.Module, Tensor], Call]:
    def make(model: nn.Module, batch: Tensor) -> Call:
        needs("torchao")
        library = importlib.import_module("torchao.quantization")
        found, given = _placed(model, batch, torch.bfloat16)
        if not any(isinstance(module, nn.Linear) for module in found.modules()):
            raise ValueError("torchao quantizes Linear layers, and this model has none")
        library.quantize_(found, getattr(library, config)())
        torch._dynamo.reset()
        compiled = torch.compile(found, dynamic=False)
        return lambda: compiled(given)

    return make


def _two_of_four(model: nn.Module, batch: Tensor) -> Call:
    found, given = _placed(model, batch, torch.float16)
    count = 0
    for module in found.modules():
        if isinstance(module, nn.Linear) and not any(size % 64 for size in module.weight.shape):
            fours = module.weight.reshape(-1, 4)
            kept = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2, dim=1).indices, 1)
            sparse = torch.sparse.to_sparse_semi_structured((fours * kept).reshape(module.weight.shape))
            module.weight = nn.Parameter(sparse, requires_grad=False)
            count += 1
    if not count:
        raise ValueError("no Linear layer has sizes that are multiples of 64")
    return lambda: found(given)


def _onnx_runtime(provider: str, *, half: bool = False) -> Callable[[nn.Module, Tensor], Call]:
    def make(model: nn.Module, batch: Tensor) -> Call:
        needs("onnx", "onnxscript", "onnxruntime")
        library: Any = importlib.import_module("onnxruntime")
        if provider not in library.get_available_providers():
            package = "onnxruntime-gpu" if "CUDA" in provider else "onnxruntime-gpu with TensorRT"
            raise NotInstalled(package)
        content = _onnx_bytes(model, batch, half=half)
        session = library.InferenceSession(content, providers=[provider])
        if provider not in session.get_providers():
            raise RuntimeError(f"{provider} was asked for and fell back to the CPU")
        return _bound(session, batch)

    return make


def _bound(session: Any, batch: Tensor) -> Call:
    """Inputs and outputs stay on the device."""
    binding = session.io_binding()
    given = batch.contiguous()
    kind = {torch.float32: "float32", torch.int64: "int64"}[given.dtype]
    binding.bind_input(
        session.get_inputs()[0].name,
        given.device.type,
        0,
        getattr(importlib.import_module("numpy"), kind),
        tuple(given.shape),
        given.data_ptr(),
    )
    binding.bind_output(session.get_outputs()[0].name, given.device.type, 0)

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        found: Tensor = torch.from_numpy(binding.copy_outputs_to_cpu()[0])
        return found

    return call


def _tensorrt(*, half: bool) -> Callable[[nn.Module, Tensor], Call]:
    def make(model: nn.Module, batch: Tensor) -> Call:
        needs("onnx", "onnxscript", "polygraphy", "tensorrt")
        backend: Any = importlib.import_module("polygraphy.backend.trt")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(_onnx_bytes(model, batch, half=half))
            network = backend.NetworkFromOnnxPath(str(path), strongly_typed=True)
            engine = backend.EngineFromNetwork(network, backend.CreateConfig())()
        runner = backend.TrtRunner(engine)
        runner.activate()
        name = runner.get_input_metadata().keys()
        feed = {next(iter(name)): batch.contiguous()}

        def call() -> Tensor:
            found: Tensor = next(iter(runner.infer(feed, copy_outputs_to_host=False).values()))
            return found

        return call

    return make


def _torch_tensorrt(model: nn.Module, batch: Tensor) -> Call:
    needs("torch_tensorrt")
    importlib.import_module("torch_tensorrt")
    return _compiled(torch.float16, backend="torch_tensorrt")(model, batch)


def _onnx_bytes(model: nn.Module, batch: Tensor, *, half: bool) -> bytes:
    program = torch.onnx.export(copy.deepcopy(model).cpu(), (batch.cpu(),), dynamo=True, verbose=False)
    assert program is not None
    proto: Any = program.model_proto
    if half:
        proto = importlib.import_module("lissom.export.casting").cast(proto, "float16")
    content: bytes = proto.SerializeToString()
    return content


def _placed(model: nn.Module, batch: Tensor, kind: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A copy of the model on the batch's device, and the batch, in a type."""
    given = batch.to(kind) if batch.is_floating_point() else batch
    return copy.deepcopy(model).to(batch.device, kind), given


class _allowing_tf32:  # noqa: N801
    def __enter__(self) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def __exit__(self, *raised: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


BASELINE = "eager float32"
ENGINES: dict[str, Engine] = {
    BASELINE: Engine(_eager(torch.float32), "float32"),
    "eager tf32": Engine(_tf32, "tf32", cuda=True),
    "eager bfloat16": Engine(_eager(torch.bfloat16), "bfloat16"),
    "eager float16": Engine(_eager(torch.float16), "float16", cuda=True),
    "cuda graph float16": Engine(_cuda_graph, "float16", cuda=True),
    "inductor float32": Engine(_compiled(torch.float32), "float32"),
    "inductor float16": Engine(_compiled(torch.float16), "float16", cuda=True),
    "inductor max-autotune float16": Engine(
        _compiled(torch.float16, mode="max-autotune"), "float16", cuda=True
    ),
    "torchao int8": Engine(_torchao("Int8DynamicActivationInt8WeightConfig"), "int8", cuda=True),
    "torchao fp8": Engine(_torchao("Float8DynamicActivationFloat8WeightConfig"), "fp8", cuda=True),
    "2:4 float16": Engine(_two_of_four, "float16", cuda=True, parity=False),
    "onnxruntime cuda float32": Engine(_onnx_runtime("CUDAExecutionProvider"), "float32", cuda=True),
    "onnxruntime cuda float16": Engine(
        _onnx_runtime("CUDAExecutionProvider", half=True), "float16", cuda=True
    ),
    "onnxruntime tensorrt float16": Engine(
        _onnx_runtime("TensorrtExecutionProvider", half=True), "float16", cuda=True
    ),
    "tensorrt float32": Engine(_tensorrt(half=False), "float32", cuda=True),
    "tensorrt float16": Engine(_tensorrt(half=True), "float16", cuda=True),
    "torch-tensorrt float16": Engine(_torch_tensorrt, "float16", cuda=True),
}
