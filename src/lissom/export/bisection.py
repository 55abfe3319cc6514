"""Where two artifacts part: the first tensor that differs, and the layer that makes it.

A tensor is to blame when it is beyond the limit while all that it is computed from is within. From an output
that differs, the tensors before it are searched by halves, each step costing one run of both models up to
that tensor; then what the found one reads is looked at, and the search goes on from there where that differs
too, for tensors of parallel branches stand in any order. Tensors are compared by name:

    ONNX    the graph is cut behind the tensor and opened on the runtime that it came from
    torch   the model is captured as the exporter does, and run operator by operator. What the exporter
            writes keeps the names of that capture, also where it folds a batch norm into a convolution, and
            the capture knows the module of every operator. Names of weights know less: weights of linear
            layers are transposed and renamed, and equal biases stored once.

Quantizing may move scale between a channel and the weights that read it (`compress.quantizing.rescaling`), so
that inside a quantized model a factor for each channel is free: a channel whose scale alone is wrong is found
in the next layer.

Left out: a graph that ends earlier is not fused as the whole one is, so that a fault of a fusion may vanish;
what inductor, an IR of OpenVINO or an engine of TensorRT computes inside cannot be seen.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from lissom.adaptation import frozen
from lissom.artifact import Artifact, Draft, Signature, TensorSpec
from lissom.causes import told
from lissom.errors import ArtifactError, ModelError
from lissom.export.onnx_from_torch import by_parameter, dynamic_axes
from lissom.export.recurrent_layers import not_unrolled
from lissom.export.verification import Parity, ParityLimit, compare
from lissom.logs import log, quiet_libraries
from lissom.optional import require
from lissom.runtime.arrays import tensor_of
from lissom.runtime.base import Runtime
from lissom.runtime.isolation import call_in_child
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.probe import load_probe
from lissom.structure import load_model

_AT_ONCE = 16
"""Tensors that are held at once where all are compared."""
_HIDDEN, _HIDDEN_FLOAT16 = 1e30, 6e4
"""Beyond these lie scores that a mask hides, in float32 and in float16, which ends at 65504."""
_UNPACKING = ("DequantizeLinear", "Cast")
_PART_SECONDS = 120.0
"""After which a runtime that computes a part of a graph is given up."""
_MOST_UNCUT = 8
"""Tensors at which an engine may die before no more are tried."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits", "LSTM", "GRU", "RNN")


class Divergence(NamedTuple):
    """The first tensor that differs.

    Attributes:
        tensor: Its name.
        operator: What makes it in the child.
        layer: Path of that operator's module in the user's model; None where it is not known.
        sqnr_db: Signal to noise ratio; None where a value is not finite, or the shape differs.
        max_abs_error: Largest error; None as above.
        checked: Number of tensors that were compared.
        previous: The last tensor that it is computed from, which agrees; None where that is an input.
    """

    tensor: str
    operator: str
    layer: str | None
    sqnr_db: float | None
    max_abs_error: float | None
    checked: int
    previous: str | None


def first_divergence(
    parent: Runtime, child: Runtime, batch: Mapping[str, np.ndarray], limit: ParityLimit
) -> Divergence | None:
    """The first tensor in which the child is beyond the limit, whatever becomes of the answers.

    Where a quantized model is within it everywhere, the tensor that adds most noise.

    Args:
        parent: The model that is trusted.
        child: The model that is checked, with the same signature.
        batch: Inputs on which an output differs, as `verification.failing_batch` gives them.
        limit: What the outputs are held to.

    Returns:
        None where no output differs in the tensors that both have by the same name, or none can be seen.

    Raises:
        ModelError: a torch model cannot be captured.
        ArtifactError: a runtime cannot open a part of the model.
    """
    before, after = _tensors(parent), _tensors(child)
    if before is None or after is None:
        return None
    outputs = [spec.name for spec in child.signature.outputs if spec.name in before.reads]
    tensors = next(parent.layout.groups(batch)).tensors
    search = _Search(before, after, outputs, tensors, limit._replace(min_agreement=0.0))
    return search.find()


class _Uncut(Exception):
    """An engine does not open the part of a graph that leads to a tensor, or died of it."""

    def __init__(self, tensor: str, death: ArtifactError) -> None:
        super().__init__(tensor)
        self.tensor, self.death = tensor, death


class _Tensors(Protocol):
    """What a model computes inside."""

    reads: dict[str, list[str]]
    """What each tensor is computed from, itself in the order of the graph; inputs and constants are none."""

    def values(self, names: Sequence[str], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def operator(self, name: str) -> str: ...

    def owner(self, name: str) -> str | None: ...

    def layer(self, name: str) -> str | None: ...


def _tensors(runtime: Runtime) -> _Tensors | None:
    if runtime.artifact.manifest.format == "onnx":
        return _OnnxTensors(runtime)
    return _TorchTensors(runtime.artifact) if runtime.name == "torch" else None


@dataclass
class _Search:
    before: _Tensors
    after: _Tensors
    outputs: Sequence[str]
    batch: Mapping[str, np.ndarray]
    limit: ParityLimit
    reads: dict[str, list[str]] = field(default_factory=dict)
    """For each tensor that both have, the nearest such tensors that it is computed from."""
    found: dict[str, Parity] = field(default_factory=dict)
    """Tensors that were compared."""
    num_uncut: int = 0
    """Tensors that were passed over, since an engine died of the part of the graph before them."""

    def __post_init__(self) -> None:
        self.quantized = self.limit.max_relative_error is None
        nearest: dict[str, list[str]] = {}
        for name, reads in self.after.reads.items():
            below = list(dict.fromkeys(shared for read in reads for shared in nearest[read]))
            is_shared = name in self.before.reads
            nearest[name] = [name] if is_shared else below
            if is_shared:
                self.reads[name] = below

    def find(self) -> Divergence | None:
        """Where the models part; tensors at which an engine dies are passed over.

        Raises:
            ArtifactError: it dies of too much, or of what leads to an output.
        """
        while True:
            try:
                return self._find()
            except _Uncut as exc:
                self._pass_over(exc)

    def _find(self) -> Divergence | None:
        outputs = [name for name in self.outputs if name in self.reads]
        worst = next((name for name in outputs if self.differs(name)), None)
        if worst is not None:
            return self.described(self.first(worst))
        return self.described(self.noisiest()) if self.quantized and outputs else None

    def _pass_over(self, uncut: _Uncut) -> None:
        """Go on without a tensor: what is computed from it is computed from what it is computed from.

        Raises:
            ArtifactError: too many engines died, or one of an output, without which nothing can be found.
        """
        name = uncut.tensor
        self.num_uncut += 1
        told = f"{uncut.death.message}, at tensor {name} ({self.after.operator(name)})"
        if name in self.outputs or self.num_uncut > _MOST_UNCUT:
            raise ArtifactError(told, hint=uncut.death.hint)
        log.warning("the tensor is passed over where two models are compared inside: %s", told)
        below = self.reads.pop(name)
        for other, reads in self.reads.items():
            if name in reads:
                kept = [read for read in reads if read != name]
                self.reads[other] = list(dict.fromkeys([*kept, *below]))

    def first(self, worst: str) -> str:
        """The first tensor that differs, of those that lead to one that does."""
        path = self._path(worst)
        low, high = 0, len(path) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.differs(path[middle]) else (middle + 1, high)
        cause = next((name for name in self.reads[path[low]] if self.differs(name)), None)
        return path[low] if cause is None else self.first(cause)

    def noisiest(self) -> str:
        """The tensor whose share of noise is most above that of what it is computed from."""
        names = list(self.reads)
        left = [name for name in names if name not in self.found]
        for start in range(0, len(left), _AT_ONCE):
            self._compare(left[start : start + _AT_ONCE])
        noise = {name: _noise(parity) for name, parity in self.found.items()}
        own = {name: max((noise[read] for read in self.reads[name]), default=0.0) for name in names}
        return max(names, key=lambda name: noise[name] - own[name])

    def differs(self, name: str) -> bool:
        """True where a tensor is beyond the limit."""
        if name not in self.found:
            self._compare([name])
        return not self.found[name].passed

    def described(self, name: str) -> Divergence:
        """The result."""
        parity, order = self.found[name], list(self.reads)
        return Divergence(
            tensor=name,
            operator=self.after.operator(name),
            layer=self.after.owner(name) or self.before.layer(name) or self.after.layer(name),
            sqnr_db=parity.sqnr_db,
            max_abs_error=parity.max_abs_error,
            checked=len(self.found),
            previous=max(self.reads[name], key=order.index, default=None),
        )

    def _path(self, worst: str) -> list[str]:
        """All tensors that lead to one, and itself, in the order of the graph."""
        leading = {worst}
        for name, reads in reversed(self.reads.items()):
            if name in leading:
                leading.update(reads)
        return [name for name in self.reads if name in leading]

    def _compare(self, names: Sequence[str]) -> None:
        try:
            wanted, found = self.before.values(names, self.batch), self.after.values(names, self.batch)
        except ArtifactError as exc:
            if len(names) == 1:
                raise _Uncut(names[0], exc) from exc
            for name in names:
                self._compare([name])
            return
        for name in names:
            pair = _comparable(wanted[name], found[name])
            is_free = self.quantized and name not in self.outputs
            self.found[name] = compare(name, pair[0], _rescaled(*pair) if is_free else pair[1], self.limit)


def _noise(parity: Parity) -> float:
    """Power of the error over that of the signal, which adds up from step to step."""
    if parity.max_abs_error is None:
        return math.inf
    return 0.0 if parity.sqnr_db is None else 10 ** (-parity.sqnr_db / 10)


def _comparable(*pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32, with zeros where both are NaN, or a mask hides both."""
    wanted, found = (np.atleast_1d(array).astype(np.float32) for array in pair)
    if wanted.shape == found.shape:
        hidden = np.isnan(wanted) & np.isnan(found)
        hidden |= (wanted > _HIDDEN) & (found >= _HIDDEN_FLOAT16)
        hidden |= (wanted < -_HIDDEN) & (found <= -_HIDDEN_FLOAT16)
        wanted[hidden] = found[hidden] = 0
    return wanted, found


def _rescaled(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """`found` with a factor for each channel, the second axis or the last, that brings it nearest."""
    finite = np.isfinite(wanted).all() and np.isfinite(found).all()
    if wanted.shape != found.shape or wanted.ndim < 2 or not finite:
        return found
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    tries = []
    for channels in {1, wanted.ndim - 1}:
        axes = tuple(axis for axis in range(wanted.ndim) if axis != channels)
        power = np.square(found).sum(axis=axes, keepdims=True)
        factors = (wanted * found).sum(axis=axes, keepdims=True) / np.where(power > 0, power, 1)
        tries.append(factors * found)
    return min(tries, key=lambda scaled: float(np.square(wanted - scaled).sum()))


class _OnnxTensors:
    """Tensors of an ONNX graph, computed by the runtime that opened it."""

    def __init__(self, runtime: Runtime) -> None:
        self._onnx = require("onnx", extra="cpu")
        self._runtime = runtime
        self._model = self._onnx.load(runtime.artifact.file(MODEL_FILE))
        graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        self.reads: dict[str, list[str]] = {}
        inputs = {spec.name for spec in runtime.signature.inputs}
        for node in graph.node:
            for name in _read(node):
                self._readers[name].append(node)
            names = [name for name in _read(node) if name in inputs or name in self.reads]
            made = [name for name in node.output if name and names]
            self.reads |= {key: [name for name in names if name not in inputs] for key in made}

    def values(self, names: Sequence[str], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the part of the graph that leads to some tensors, where an engine may die of it.

        Raises:
            ArtifactError: it did, or does not open the part.
        """
        places = {name: self._used(name) for name in names}
        part = self._part(list(places.values()))
        read = {value.name for value in part.graph.input}
        signature = Signature(
            inputs=tuple(spec for spec in self._runtime.signature.inputs if spec.name in read),
            outputs=tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in places.values()),
        )
        fields = dict(self._runtime.artifact.manifest) | {"signature": signature}
        del fields["files"], fields["schema_"]
        with tempfile.TemporaryDirectory() as place:
            with Draft(Path(place) / "part") as draft:
                draft.add(MODEL_FILE, part.SerializeToString())
                artifact = draft.commit(**fields)
            given = self._runtime
            found = call_in_child(
                artifact,
                given.name,
                {name: array for name, array in batch.items() if name in read},
                threads=given.threads,
                device=given.device,
                seconds=_PART_SECONDS,
            )
        return {name: found[place] for name, place in places.items()}

    def _used(self, name: str) -> str:
        """The tensor after rounding, which is what the graph goes on with; rounding may stand for a ReLU."""
        for kind in ("QuantizeLinear", "DequantizeLinear"):
            readers = self._readers[name]
            if not readers or any(node.op_type != kind for node in readers):
                break
            name = readers[0].output[0]
        return name

    def _part(self, names: Sequence[str]) -> Any:
        wanted, nodes = set(names), []
        for node in reversed(self._model.graph.node):
            if not wanted.isdisjoint(node.output):
                nodes.append(node)
                wanted.update(_read(node))
        graph = self._onnx.helper.make_graph(
            nodes[::-1],
            "part",
            [value for value in self._model.graph.input if value.name in wanted],
            [self._onnx.ValueInfoProto(name=name) for name in names],
            [tensor for name, tensor in self._constants.items() if name in wanted],
        )
        return self._onnx.helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
            functions=self._model.functions,
        )

    def operator(self, name: str) -> str:
        """Type of the node; of what is rounded, where the node only rounds."""
        node = self._makers[name]
        while node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in self._makers:
            node = self._makers[node.input[0]]
        return str(node.op_type)

    def owner(self, name: str) -> str | None:
        """The module whose weight the node reads, unless the exporter renamed it or others read it too."""
        return self._owner(self._makers.get(name), num_dims=2)

    def layer(self, name: str) -> str | None:
        """The module whose bias is added too, or of the layer before a node that has no weights."""
        node = self._makers.get(name)
        while node is not None:
            behind = self._readers[node.output[0]]
            last = behind[0] if len(behind) == 1 and behind[0].op_type == "Add" else None
            found = self._owner(node) or self._owner(last)
            ways = [read for read in node.input if read in self.reads]
            if found or len(ways) != 1 or node.op_type in _LAYERS:
                return found
            node = self._makers[ways[0]]
        return None

    def _owner(self, node: Any, num_dims: int = 1) -> str | None:
        for read in () if node is None else node.input:
            maker = self._makers.get(read)
            name = maker.input[0] if maker is not None and maker.op_type in _UNPACKING else read
            dims = self._constants[name].dims if name in self._constants else ()
            if "." in name and len(dims) >= num_dims and len(self._readers[name]) == 1:
                return str(name).rpartition(".")[0]
        return None


def _read(node: Any) -> Iterator[str]:
    """Names that a node reads, also those inside its branches and loops."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _read(inner)


class _TorchTensors:
    """Tensors of a torch model, captured as the exporter does and named as it names them."""

    def __init__(self, artifact: Artifact) -> None:
        self._inputs = [spec.name for spec in artifact.manifest.signature.inputs]
        program = _captured(artifact)
        outputs = [spec.name for spec in artifact.manifest.signature.outputs]
        names = dict(zip(program.graph_signature.user_outputs, outputs, strict=True))
        self._module = program.module(check_guards=False)
        self._nodes: dict[str, torch.fx.Node] = {}
        self.reads: dict[str, list[str]] = {}
        nearest: dict[torch.fx.Node, list[str]] = {}
        for node in self._module.graph.nodes:
            below = list(dict.fromkeys(name for read in node.all_input_nodes for name in nearest[read]))
            nearest[node] = below
            value = node.meta.get("val")
            if node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
                name = names.get(node.name, node.name)
                self._nodes[name], self.reads[name], nearest[node] = node, below, [name]

    def values(self, names: Sequence[str], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model operator by operator."""
        kept: dict[str, torch.Tensor] = {}
        wanted = {self._nodes[name]: name for name in names}

        class Keeping(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                value = super().run_node(n)
                if n in wanted:
                    kept[wanted[n]] = value
                return value

        with torch.inference_mode():
            Keeping(self._module).run(*(tensor_of(batch[name]) for name in self._inputs))
        return {name: value.float().numpy() for name, value in kept.items()}

    def operator(self, name: str) -> str:
        """Name of the operator."""
        return str(self._nodes[name].target)

    def layer(self, name: str) -> str | None:
        """Path of the module that calls the operator."""
        if name not in self._nodes:
            return None
        stack = list(self._nodes[name].meta.get("nn_module_stack", {}).values())
        return stack[-1][0].partition("@")[0] or None if stack else None

    owner = layer


def _captured(artifact: Artifact) -> Any:
    """The ExportedProgram from which the exporter would write ONNX."""
    signature, (probe, _) = artifact.manifest.signature, load_probe(artifact)
    try:
        model = load_model(artifact, plain=True)
        with quiet_libraries(), not_unrolled(), frozen(model):
            program = torch.onnx.export(
                model,
                tuple(tensor_of(probe[spec.name]) for spec in signature.inputs),
                dynamic_shapes=by_parameter(model, dynamic_axes(signature)),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        raise ModelError(f"{artifact.name!r} cannot be captured:{told(exc)}") from exc
    assert program is not None
    return program.exported_program
