"""Our own artifacts through `lissom.runtime`: the original, pruned, distilled, and with 8 bits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from gpu.engines import NotInstalled, needs

RUNTIMES = ("torch", "inductor", "onnxruntime", "tensorrt", "torch_tensorrt")
"""Those that compute on a GPU; without one, those of them that compute on a CPU."""

Row = dict[str, Any]


def rows_of(folder: Path, device: str, batches: list[int], *, tiny: bool) -> list[Row]:
    """Every artifact on every runtime of the device, timed from host memory to host memory."""
    try:
        needs("pydantic", "torch_pruning", "onnx", "onnxscript", "onnxruntime")
        artifacts = _made(folder, tiny=tiny)
    except NotInstalled as exc:
        return [_said("lissom artifacts", "all", batches[0], "not installed", str(exc))]
    return [
        _row(artifact, name, device, batch)
        for artifact in artifacts
        for name in RUNTIMES
        if _executes(name, artifact)
        for batch in batches
    ]


def _made(folder: Path, *, tiny: bool) -> list[Any]:
    """A ResNet trained on the digits that lissom brings, then made small; kept in the folder."""
    import lissom

    epochs = 1 if tiny else 10
    kwargs = {"widths": [16, 32] if tiny else [32, 64], "blocks": [1, 1]}
    allow = ("accuracy", "not-slower", "parity", "precision")
    trained = lissom.train(
        "resnet",
        "digits",
        kwargs=kwargs,
        epochs=epochs,
        out=folder / "train",
        runtimes=["torch"],
        allow=allow,
    )
    pruned = lissom.prune(
        trained.artifact, "digits", ratio=0.5, out=folder / "prune", runtimes=["torch"], allow=allow
    )
    small = lissom.distill(
        pruned.artifact,
        "digits",
        teacher=trained.artifact,
        epochs=epochs,
        out=folder / "distill",
        runtimes=["torch"],
        allow=allow,
    )
    quantized = lissom.quantize(
        small.artifact,
        "digits",
        target="tensorrt",
        out=folder / "quantize",
        runtimes=["torch", "onnxruntime"],
        allow=allow,
    )
    folders = [trained.artifact.path, small.artifact.path]
    folders += [next(quantized.out.glob(f"*-{stage}-*")) for stage in ("export", "quantize")]
    return [lissom.Artifact.open(path) for path in folders]


def _executes(runtime: str, artifact: Any) -> bool:
    from lissom.registry import runtime_entry

    formats = (*runtime_entry(runtime).formats, *(("onnx",) if runtime == "tensorrt" else ()))
    return artifact.manifest.format in formats


def _row(artifact: Any, name: str, device: str, batch: int) -> Row:
    from lissom.errors import LissomError
    from lissom.runtime.availability import absence
    from lissom.runtime.base import open_runtime
    from lissom.runtime.probe import load_probe

    model, engine = f"lissom {artifact.name}", f"lissom {name}"
    if missing := absence(name):
        return _said(model, engine, batch, "not installed", missing[0])
    inputs, wanted = load_probe(artifact)
    one = {key: np.resize(array, (batch, *array.shape[1:])) for key, array in inputs.items()}
    try:
        found = _engine_of(artifact) if name == "tensorrt" else artifact
        with open_runtime(found, name, device=device) as runtime:
            answer = runtime.infer_batch(inputs)
            for _ in range(10):
                runtime.infer_batch(one)
            seconds = [_seconds(lambda: runtime.infer_batch(one)) for _ in range(50)]
            executed, elsewhere = runtime.executed(), runtime.elsewhere()
    except LissomError as exc:
        return _said(model, engine, batch, "failed", exc.message)
    except Exception as exc:  # what an engine raises is the finding
        return _said(model, engine, batch, "failed", f"{type(exc).__name__}: {str(exc).splitlines()[0]}")
    error = max(float(np.abs(answer[key] - wanted[key]).max()) for key in wanted)
    return {
        **_said(model, engine, batch, "failed" if elsewhere else "measured", ", ".join(elsewhere)),
        "precision": artifact.manifest.precision,
        "rounds_ms": [[1e3 * value for value in seconds[start : start + 10]] for start in range(0, 50, 10)],
        "executed": executed,
        "max_error": error,
        "size_bytes": artifact.size_bytes,
    }


def _engine_of(artifact: Any) -> Any:
    import lissom

    out = artifact.path.parent / f"engine-{artifact.name}"
    made = lissom.export(artifact, "digits", format="tensorrt", out=out, allow=("parity", "precision"))
    return lissom.Artifact.open(next(made.out.glob("*-export-*")))


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _said(model: str, engine: str, batch: int, status: str, reason: str) -> Row:
    return {"model": model, "engine": engine, "batch": batch, "status": status, "reason": reason}
