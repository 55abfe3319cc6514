"""The verb that asks a server that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from lissom.logs import Progress
from lissom.options import LoadOptions
from lissom.verbs.shared import load_data

if TYPE_CHECKING:
    import numpy as np

    from lissom.serve.load import Load, Prepared


def load(
    url: str,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Load:
    """Ask a server at rates, each query at its planned time, from which its latency counts.

    Args:
        url: Of a server of the Open Inference Protocol.
        out: Folder of load.json and load.html; default: none is written.
        progress: Shows how far it is.
        options: Which model, at which rates, and how.

    Raises:
        RequestError: the URL is none, or the model is not there or does not take the samples.
        ServerError: the server cannot be reached.
    """
    from lissom.serve.load import measure

    found = measure(plan_load(url, **options), progress=progress)
    if out is not None:
        from lissom.recipe import default_threads
        from lissom.report.load_page import write_load
        from lissom.runtime.machine import cpu_name

        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_load(found, folder, machine=f"{cpu_name()}, {default_threads()} cores")
    return found


def plan_load(url: str, **options: Unpack[LoadOptions]) -> Prepared:
    """What `load` would ask: the model is found and asked once; its arguments.

    Raises:
        LissomError: as `load`.
    """
    from lissom.serve.load import LoadRequest, prepare

    data = options.get("data")
    kept = {name: value for name, value in options.items() if name in LoadRequest._fields}
    request = LoadRequest(url, **{**kept, "rates": tuple(options.get("rates", ()))})  # type: ignore[arg-type]
    return prepare(request, None if data is None else _tensors(data), data or "random numbers")


def _tensors(source: str) -> dict[str, np.ndarray]:
    """Tensors of DATA by name, from the first split that has some."""
    found = load_data(source)
    split = next(name for name in ("report", "calibrate", "select", "train") if len(found.indices[name]))
    return found.tensors(split)
