"""The stage `export`: a model in the format of an engine, opened by that engine before it is called done.

    onnx         by the dynamo exporter; also from ONNX, to change its precision
    openvino     the IR that OpenVINO loads without converting
    aotinductor  native code for this machine, compiled by inductor ahead of time
    tensorrt     an engine for the GPU of this machine

Probe and predictions of the artifact are computed by the runtime that opens the written files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lissom.artifact import Artifact, Draft
from lissom.errors import ModelError
from lissom.export.casting import cast
from lissom.export.engine_from_onnx import engine_from_onnx
from lissom.export.external_data import load_onnx
from lissom.export.onnx_file import add_onnx
from lissom.export.onnx_from_torch import onnx_from_torch
from lissom.export.openvino_from_onnx import openvino_from_onnx
from lissom.export.package_from_torch import package_from_torch
from lissom.models.stages import TOLERANCES, Context, add_predictions
from lissom.recipe import ExportConfig
from lissom.registry import runtimes_for
from lissom.runtime.base import open_runtime
from lissom.runtime.onnx_runtime import MODEL_FILE
from lissom.runtime.probe import PROBE_FILE, probe_bytes

_FLOATS = ("float32", "float16", "bfloat16")


def export(parents: Mapping[str, Artifact], config: ExportConfig, context: Context) -> Artifact:
    """Write the model of the parent in the format of an engine.

    Raises:
        ModelError: the model cannot be captured or converted, or has no weights to cast.
        MachineError: what compiles the format is not on this machine.
    """
    parent = parents["input"]
    precision = _precision(parent, config)
    with context.progress.task(f"export {context.fields['name']}", 1) as advance:
        made = _FORMATS[config.format](parent, config, context, precision)
        advance(1)
    return made


def _precision(parent: Artifact, config: ExportConfig) -> str:
    """The precision that is asked for, by default the parent's."""
    has = parent.manifest.precision
    if config.precision in (None, has):
        return has
    if has not in _FLOATS:
        raise ModelError(
            f"{parent.name!r} is {has}; it cannot be exported in {config.precision}",
            hint="leave --precision out, or start from the float32 model",
        )
    assert config.precision is not None
    return config.precision


def _onnx(parent: Artifact, config: ExportConfig, context: Context, precision: str) -> Artifact:
    model = _onnx_model(parent, config, context, precision)
    with context.draft() as draft:
        signature = add_onnx(draft, model, parent.manifest.signature, context, precision=precision)
        fields = _fields(parent, context, config, precision, len(model.graph.node))
        return draft.commit(**fields | {"signature": signature})


def _openvino(parent: Artifact, config: ExportConfig, context: Context, precision: str) -> Artifact:
    model = _onnx_model(parent, config, context, precision)
    files = openvino_from_onnx(model, parent.manifest.signature)
    return _written(files, context, _fields(parent, context, config, precision, len(model.graph.node)))


def _aotinductor(parent: Artifact, config: ExportConfig, context: Context, precision: str) -> Artifact:
    files = package_from_torch(parent, context, precision)
    return _written(files, context, _fields(parent, context, config, precision, None))


def _tensorrt(parent: Artifact, config: ExportConfig, context: Context, precision: str) -> Artifact:
    model = _onnx_model(parent, config, context, precision)
    files, built_on = engine_from_onnx(model, parent.manifest.signature, context.probe_inputs())
    fields = _fields(parent, context, config, precision, len(model.graph.node))
    fields["notes"] |= {"built_on": built_on}
    return _written(files, context, fields)


_FORMATS: dict[str, Callable[[Artifact, ExportConfig, Context, str], Artifact]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "aotinductor": _aotinductor,
    "tensorrt": _tensorrt,
}


def _onnx_model(parent: Artifact, config: ExportConfig, context: Context, precision: str) -> Any:
    """The model as ONNX in a precision."""
    if parent.manifest.format == "torch":
        model = onnx_from_torch(parent, context, opset=config.opset)
    else:
        model = load_onnx(parent.file(MODEL_FILE))
    return model if precision == parent.manifest.precision else cast(model, precision)


def _fields(
    parent: Artifact, context: Context, config: ExportConfig, precision: str, num_operators: int | None
) -> dict[str, Any]:
    manifest = parent.manifest
    operators = {} if num_operators is None else {"opset": config.opset, "operators": num_operators}
    return {
        **context.fields,
        "format": config.format,
        "precision": precision,
        "signature": manifest.signature,
        "factory": None,
        "num_parameters": manifest.num_parameters,
        "notes": {**_counts(manifest.notes), **operators},
        "tolerance": TOLERANCES.get(precision, manifest.tolerance),
    }


def _counts(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What a quantized model says of its layers, by which the precision of its conversions is judged."""
    names = ("computing", "computing_int8", "weights_in_groups", "target", "validated_here")
    return {name: notes[name] for name in names if name in notes}


def _written(files: Mapping[str, bytes], context: Context, fields: Mapping[str, Any]) -> Artifact:
    """The artifact of an engine's files, with what the engine computes when it opens them."""
    with tempfile.TemporaryDirectory() as place:
        bare = _committed(Draft(Path(place) / "engine"), files, fields)
        with open_runtime(bare, runtimes_for(str(fields["format"]))[0]) as engine:
            inputs = context.probe_inputs()
            with context.draft() as draft:
                draft.add(PROBE_FILE, probe_bytes(*engine.layout.answered(engine.infer, inputs)))
                add_predictions(draft, engine.infer_batch, context)
                return _added(draft, files, fields)


def _committed(draft: Draft, files: Mapping[str, bytes], fields: Mapping[str, Any]) -> Artifact:
    with draft:
        return _added(draft, files, fields)


def _added(draft: Draft, files: Mapping[str, bytes], fields: Mapping[str, Any]) -> Artifact:
    for name, content in files.items():
        draft.add(name, content)
    return draft.commit(**fields)
