"""How one torch model is run: eager, compiled, in fewer bits, or by another engine.

Every maker gets the model on the CPU, one batch on the device, a precision and its options, and gives a call
without arguments that leaves its answer on the device. A missing library is a ModuleNotFoundError; a fallback
to another device is an error, never a slower row.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu import stock
from gpu.catalog import Engine
from gpu.libraries import NotInstalled

Call = Callable[[], Tensor]
_COMPUTING = ("Conv", "Gemm", "MatMul", "Attention", "MultiHeadAttention")


def call_of(engine: Engine, model: nn.Module, batch: Tensor) -> Call:
    """The call of an engine."""
    maker: Callable[..., Call] = _MAKERS[engine.maker]
    return maker(model, batch, engine.precision, **engine.options)


def _eager(model: nn.Module, batch: Tensor, precision: str) -> Call:
    found, given = _placed(model, batch, precision)

    def call() -> Tensor:
        with torch.inference_mode():
            answer: Tensor = found(given)
            return answer

    return _with_tf32(call) if precision == "tf32" else call


def _with_tf32(inner: Call) -> Call:
    def call() -> Tensor:
        allow_tf32(True)
        try:
            return inner()
        finally:
            allow_tf32(False)

    return call


def allow_tf32(allowed: bool) -> None:
    """Whether products and convolutions of float32 may be rounded to 10 bits of mantissa."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _cuda_graph(model: nn.Module, batch: Tensor, precision: str) -> Call:
    found, given = _placed(model, batch, precision)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            found(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer: Tensor = found(given)

    def call() -> Tensor:
        assert found is not None  # and given: the graph holds their addresses, not them
        assert given is not None
        graph.replay()
        return answer

    return call


def _compiled(model: nn.Module, batch: Tensor, precision: str, **options: Any) -> Call:
    if options.get("backend") == "torch_tensorrt":
        importlib.import_module("torch_tensorrt")  # registers the backend
    found, given = _placed(model, batch, precision)
    return _compiled_call(found, given, **options)


def _compiled_call(model: nn.Module, given: Tensor, **options: Any) -> Call:
    """A compiled call; at dynamo's limit of recompilations it fails rather than be eager in silence."""
    config: Any = importlib.import_module("torch._dynamo.config")
    config.recompile_limit = 64
    config.fail_on_recompile_limit_hit = True
    compiled = torch.compile(model, dynamic=False, **options)
    return lambda: compiled(given)


def _torchao(model: nn.Module, batch: Tensor, precision: str, config: str) -> Call:
    library: Any = importlib.import_module("torchao.quantization")
    found, given = _placed(model, batch, "bfloat16")
    if not any(map(_takes_eight_bits, found.modules())):
        raise ValueError("no Linear layer has sizes that are multiples of 16")
    library.quantize_(found, getattr(library, config)(), lambda module, _: _takes_eight_bits(module))
    return _compiled_call(found, given)


def _takes_eight_bits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and not any(size % 16 for size in module.weight.shape)


def _two_of_four(model: nn.Module, batch: Tensor, precision: str) -> Call:
    found, given = _placed(two_of_four_weights(model), batch, "float16")
    for module in _sparse_layers(found):
        sparse = torch.sparse.to_sparse_semi_structured(module.weight.contiguous())
        module.weight = nn.Parameter(sparse, requires_grad=False)
    return lambda: found(given)


def two_of_four_weights(model: nn.Module) -> nn.Module:
    """A copy with the two smallest of every four weights of a Linear layer at zero, still stored dense.

    Raises:
        ValueError: no layer has sizes that the sparse kernels take.
    """
    found = copy.deepcopy(model)
    layers = _sparse_layers(found)
    if not layers:
        raise ValueError("no Linear layer has sizes that are multiples of 64")
    for module in layers:
        fours = module.weight.detach().reshape(-1, 4)
        kept = torch.zeros_like(fours).scatter_(1, fours.abs().topk(2, dim=1).indices, 1)
        module.weight = nn.Parameter((fours * kept).reshape(module.weight.shape), requires_grad=False)
    return found


def _sparse_layers(model: nn.Module) -> list[nn.Linear]:
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and not any(size % 64 for size in module.weight.shape)
    ]


def _onnx_runtime(model: nn.Module, batch: Tensor, precision: str, provider: str) -> Call:
    library: Any = importlib.import_module("onnxruntime")
    if provider not in library.get_available_providers():
        raise NotInstalled("onnxruntime-gpu" + (" with TensorRT" if "Tensorrt" in provider else ""))
    path = stock.onnx_file(model, batch, half=precision == "float16")
    return _bound(_session(library, path, provider), batch)


def _session(library: Any, path: Path, provider: str) -> Any:
    """A session on a provider.

    Raises:
        RuntimeError: the provider, or a product or convolution, fell back to the CPU.
    """
    options = library.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    chain: list[Any] = [provider]
    if provider == "TensorrtExecutionProvider":  # what TensorRT refuses goes to CUDA
        chain = [(provider, {"trt_fp16_enable": True}), "CUDAExecutionProvider"]
    session = library.InferenceSession(str(path), options, providers=chain)
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} was asked for and fell back to the CPU")
    if provider != "CPUExecutionProvider" and (left := _left_to_the_cpu(session)):
        raise RuntimeError(f"{len(left)} operators fell back to the CPU, such as {left[0]}")
    return session


def _left_to_the_cpu(session: Any) -> list[str]:
    """Convolutions and products that were given to the CPU; shapes are computed there on purpose."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    return [
        node.name
        for part in (ask() if ask else ())
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
        if node.op_type.removeprefix("Fused") in _COMPUTING
    ]


def _bound(session: Any, batch: Tensor) -> Call:
    """A call whose input and output stay on the device; the session waits for its own work."""
    numpy = importlib.import_module("numpy")
    given, binding = batch.contiguous(), session.io_binding()
    device = given.device.type
    kind = {torch.float32: numpy.float32, torch.int64: numpy.int64}[given.dtype]
    binding.bind_input(session.get_inputs()[0].name, device, 0, kind, tuple(given.shape), given.data_ptr())
    name = session.get_outputs()[0].name
    binding.bind_output(name, device, 0)
    if device == "cuda":
        torch.cuda.synchronize()
    session.run_with_iobinding(binding)  # says the shape of the answer
    shape = tuple(binding.get_outputs()[0].shape())
    answer = torch.empty(shape, dtype=torch.float32, device=given.device)
    binding.clear_binding_outputs()
    binding.bind_output(name, device, 0, numpy.float32, shape, answer.data_ptr())

    def call() -> Tensor:
        assert given.data_ptr()  # keeps the input alive as long as the call
        session.run_with_iobinding(binding)
        return answer

    return call


def _tensorrt(model: nn.Module, batch: Tensor, precision: str, *, by_lissom: bool = False) -> Call:
    path = stock.onnx_file(model, batch, half=precision == "float16")
    content = _lissom_engine(path, model, batch) if by_lissom else _engine(path, batch)
    library: Any = importlib.import_module("tensorrt")
    runtime = library.Runtime(library.Logger(library.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise RuntimeError("TensorRT cannot open the engine that it built")
    return _executed(engine, batch)


def _engine(path: Path, batch: Tensor) -> bytes:
    """An engine for exactly this batch."""
    backend: Any = importlib.import_module("polygraphy.backend.trt")
    profile = backend.Profile().add("samples", *[tuple(batch.shape)] * 3)
    network = backend.NetworkFromOnnxPath(str(path), strongly_typed=True)
    config = backend.CreateConfig(profiles=[profile])
    return bytes(backend.EngineBytesFromNetwork(network, config=config)())


def _lissom_engine(path: Path, model: nn.Module, batch: Tensor) -> bytes:
    """An engine as lissom exports it, for every batch up to its largest."""
    import onnx

    from lissom.artifact import Signature, TensorSpec
    from lissom.export.engine_from_onnx import engine_from_onnx
    from lissom.runtime.tensor_rt import ENGINE_FILE

    def spec(name: str, tensor: Tensor) -> TensorSpec:
        kind = str(tensor.dtype).removeprefix("torch.")
        return TensorSpec(name=name, dtype=kind, shape=("batch", *tensor.shape[1:]))

    with torch.no_grad():
        answer = model(batch[:1].cpu())
    signature = Signature(inputs=(spec("samples", batch),), outputs=(spec("answer", answer),))
    files, _ = engine_from_onnx(onnx.load(path), signature, {"samples": batch.cpu().numpy()})
    return bytes(files[ENGINE_FILE])


def _executed(engine: Any, batch: Tensor) -> Call:
    """A call on a stream of its own, which torch's stream waits for."""
    context, stream, given = engine.create_execution_context(), torch.cuda.Stream(), batch.contiguous()
    context.set_input_shape("samples", tuple(given.shape))
    kind = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
    dtype = kind[engine.get_tensor_dtype("answer").name]
    answer = torch.empty(tuple(context.get_tensor_shape("answer")), dtype=dtype, device=given.device)
    context.set_tensor_address("samples", given.data_ptr())
    context.set_tensor_address("answer", answer.data_ptr())

    def call() -> Tensor:
        assert engine is not None  # and given: both must live as long as the call
        assert given.data_ptr()
        stream.wait_stream(torch.cuda.current_stream())
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not execute the engine")
        torch.cuda.current_stream().wait_stream(stream)
        return answer

    return call


def _placed(model: nn.Module, batch: Tensor, precision: str) -> tuple[nn.Module, Tensor]:
    """A copy of the model on the batch's device, and the batch, in a type."""
    kind: torch.dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    given = batch.to(kind) if batch.is_floating_point() else batch
    return copy.deepcopy(model).to(batch.device, kind), given


_MAKERS: dict[str, Callable[..., Call]] = {
    "eager": _eager,
    "cuda_graph": _cuda_graph,
    "two_of_four": _two_of_four,
    "compiled": _compiled,
    "torchao": _torchao,
    "onnx_runtime": _onnx_runtime,
    "tensorrt": _tensorrt,
}
