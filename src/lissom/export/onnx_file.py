"""ONNX files as we store them: checked, named axes, no stack traces and no local paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lissom.artifact import Draft, Signature
from lissom.errors import ModelError
from lissom.export.external_data import onnx_files
from lissom.export.refusals import fixed
from lissom.models.stages import Context, add_predictions
from lissom.optional import require
from lissom.runtime.arrays import plain_arrays
from lissom.runtime.isolation import prove_file, prove_session
from lissom.runtime.layout import SAMPLES, Layout
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.probe import PROBE_FILE, probe_bytes
from lissom.runtime.signatures import prove_signature


def add_onnx(
    draft: Draft, model: Any, signature: Signature, context: Context, *, precision: str = "float32"
) -> Signature:
    """Write a model with its probe and its predictions, computed by the engine that opens the written file.

    Args:
        draft: The artifact that is written.
        model: ONNX ModelProto; it is changed, and without its weights afterwards when they are too large.
        signature: Inputs and outputs, whose axes the file is to name.
        context: Gives the samples, and what the file says of itself: task, labels, lineage.
        precision: Of the model.

    Returns:
        The signature with axes of the samples that were proven on the written file.

    Raises:
        ModelError: the model is not valid ONNX.
        ArtifactError: the engine ended the child process in which a model from elsewhere is tried.
    """
    onnx = require("onnx", extra="cpu")
    strip(model)
    name_axes(model, signature)
    onnx.helper.set_model_props(model, _described(signature, context))
    for name, content in onnx_files(model).items():
        draft.add(name, content)
    path = draft.path_of(MODEL_FILE)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ModelError(f"the exported model is not valid ONNX: {str(exc).splitlines()[0]}") from exc
    inputs = context.probe_inputs()
    if context.fields.get("foreign"):
        prove_file(path, next(Layout(signature).groups(inputs)).tensors)
    call = caller(open_session(path), [spec.name for spec in signature.outputs])
    proven = prove_signature(call, signature, inputs, precision=precision)
    layout = Layout(proven)
    draft.add(PROBE_FILE, probe_bytes(*layout.answered(call, inputs)))
    add_predictions(draft, lambda samples: layout.infer_samples(call, samples), context)
    return proven


def _described(signature: Signature, context: Context) -> dict[str, str]:
    """What the file says of itself to whoever meets it without its manifest."""
    fields = context.fields
    parents = [parent.model_dump(mode="json") for parent in fields["parents"]]
    told = {
        "signature": signature.model_dump(mode="json"),
        "task": fields["task"],
        "labels": list(fields["labels"]),
        "lineage": {
            "recipe": fields["recipe"],
            "stage": fields["name"],
            "id": fields["id"],
            "parents": parents,
        },
    }
    return {f"lissom.{key}": json.dumps(value, sort_keys=True) for key, value in told.items()}


def open_session(model: Path | bytes, *, is_trial: bool = False, exact: bool = False) -> Any:
    """A session of ONNX Runtime on the CPU, from a file or from its bytes.

    Args:
        model: File, or its content.
        is_trial: True where calls that fail are expected, so that the engine need not write of them.
        exact: Integer products are added up in 32 bits on every CPU; without VNNI two of them would
            saturate in 16 bits.

    Raises:
        ModelError: ONNX Runtime cannot open the model.
        ArtifactError: it ended the child process in which a graph of a model from elsewhere is tried.
    """
    prove_session(model)
    library: Any = require("onnxruntime", extra="cpu")
    options = library.SessionOptions()
    options.log_severity_level = 4 if is_trial else 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    content = model if isinstance(model, bytes) else str(model)
    try:
        return library.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _faults(library) as exc:
        raise _translated(exc) from exc


def caller(session: Any, names: list[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What gives the outputs called `names` of a session; what it cannot run is a fault of the model."""
    faults = _faults(require("onnxruntime", extra="cpu"))

    def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(names, plain_arrays(inputs)), strict=True))
        except faults as exc:
            raise _translated(exc) from exc

    return call


def _faults(library: Any) -> tuple[type[Exception], ...]:
    state = library.capi.onnxruntime_pybind11_state
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    )


_UNKNOWN = (
    re.compile(r"Fatal error: (?P<domain>[^:\s]*):(?P<kind>\w+)\("),
    re.compile(r"No Op registered for (?P<kind>\w+) with domain_version of (?P<version>\d+)"),
)
"""What ONNX Runtime says of an operator that it does not know."""


def _translated(exc: Exception) -> ModelError:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(exc).splitlines()[0])
    for pattern in _UNKNOWN:
        if found := pattern.search(text):
            parts = found.groupdict()
            place = f"operator set {parts['version']}" if "version" in parts else f"{parts['domain']!r}"
            return ModelError(
                f"ONNX Runtime cannot execute the model: it has no operator {parts['kind']} of {place}",
                hint="export the model without that operator, or with it as a function of the file",
            )
    newer = "opset" in text.lower() or "IR version" in text
    return ModelError(
        f"ONNX Runtime cannot execute the model: {text}",
        hint="pip install -U onnxruntime, or export for an older operator set" if newer else "",
    )


def strip(model: Any) -> None:
    """Remove what the exporter adds about this machine: stack traces, paths, documentation, value types."""
    model.producer_name = "lissom"
    model.ClearField("doc_string")
    del model.metadata_props[:]
    _strip_graph(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:], function.value_info[:]
        _strip_nodes(function.node)


def _strip_graph(graph: Any) -> None:
    graph.ClearField("doc_string")
    del graph.value_info[:], graph.metadata_props[:]
    for part in (*graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Any) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                _strip_graph(graph)


def name_axes(model: Any, signature: Signature) -> None:
    """Give every axis that may vary the name that the signature has for it; a fixed number of samples stays.

    Raises:
        ModelError: the exporter fixed the size of an axis that may vary.
    """
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    one_size = signature.batching is not None and signature.batching.size is not None
    for spec in (*signature.inputs, *signature.outputs):
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, str):
                continue
            found = values[spec.name].type.tensor_type.shape.dim[axis]
            if dim == SAMPLES and one_size:
                continue
            if found.HasField("dim_value"):
                raise fixed(spec.name, axis, found.dim_value, dim)
            found.dim_param = dim
