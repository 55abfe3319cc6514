"""lissom makes a torch model small and fast without losing what it knows, measures it, and serves it.

Every verb of the command line is a function here. Importing lissom imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lissom.artifact import Artifact, PreprocessingStep
    from lissom.errors import LissomError, ServerError
    from lissom.models.dataset import Dataset
    from lissom.models.tasks import Task
    from lissom.pipeline import Result, clean, run
    from lissom.recipe import Recipe
    from lissom.runtime.base import Runtime, open_runtime
    from lissom.serve.client import AsyncClient, Client
    from lissom.verbs import (
        bench,
        check,
        compare,
        distill,
        doctor,
        evaluate,
        export,
        inspect,
        load,
        load_data,
        models,
        package,
        predict,
        prune,
        quantize,
        report,
        sensitivity,
        serve,
        train,
        verify,
    )

_HOMES = {
    "Artifact": "lissom.artifact",
    "AsyncClient": "lissom.serve.client",
    "Client": "lissom.serve.client",
    "Dataset": "lissom.models.dataset",
    "LissomError": "lissom.errors",
    "PreprocessingStep": "lissom.artifact",
    "Recipe": "lissom.recipe",
    "Result": "lissom.pipeline",
    "Runtime": "lissom.runtime.base",
    "ServerError": "lissom.errors",
    "Task": "lissom.models.tasks",
    "bench": "lissom.verbs",
    "check": "lissom.verbs",
    "clean": "lissom.pipeline",
    "compare": "lissom.verbs",
    "distill": "lissom.verbs",
    "doctor": "lissom.verbs",
    "evaluate": "lissom.verbs",
    "export": "lissom.verbs",
    "inspect": "lissom.verbs",
    "load": "lissom.verbs",
    "load_data": "lissom.verbs",
    "models": "lissom.verbs",
    "open_runtime": "lissom.runtime.base",
    "package": "lissom.verbs",
    "predict": "lissom.verbs",
    "prune": "lissom.verbs",
    "quantize": "lissom.verbs",
    "report": "lissom.verbs",
    "run": "lissom.pipeline",
    "sensitivity": "lissom.verbs",
    "serve": "lissom.verbs",
    "train": "lissom.verbs",
    "verify": "lissom.verbs",
}

__all__ = [
    "Artifact",
    "AsyncClient",
    "Client",
    "Dataset",
    "LissomError",
    "PreprocessingStep",
    "Recipe",
    "Result",
    "Runtime",
    "ServerError",
    "Task",
    "bench",
    "check",
    "clean",
    "compare",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "load",
    "load_data",
    "models",
    "open_runtime",
    "package",
    "predict",
    "prune",
    "quantize",
    "report",
    "run",
    "sensitivity",
    "serve",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lissom' has no attribute {name!r}")
    if name in ("bench", "export", "models", "report", "serve"):  # a subpackage, which calls the verb
        return importlib.import_module(f"lissom.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
