"""The verbs, for Python and for the command line: each is a recipe of one or a few stages.

MODEL is a built-in name, a factory (`package.module:function`, `path/file.py:function`, or the function
itself), an artifact, or an `.onnx` file. DATA is a built-in name, a file (.npz, .csv, .parquet), a
folder, or a factory that gives a `Dataset`; options go behind `?`. What a verb leaves is what a recipe
leaves: artifacts, a report, the link `artifact`.
"""

from __future__ import annotations

from lissom.verbs.files import open_model, open_models
from lissom.verbs.making import (
    check,
    distill,
    export,
    plan_prune,
    plan_quantize,
    prune,
    quantize,
    recipe_of,
    train,
)
from lissom.verbs.measuring import (
    ask,
    bench,
    compare,
    divergence,
    evaluate,
    judge,
    plan_bench,
    random_operators,
    sweep,
    verify,
)
from lissom.verbs.packaging import package, plan_package
from lissom.verbs.remote import load, plan_load
from lissom.verbs.shared import load_data
from lissom.verbs.studying import dissect, plan_dissect, plan_sensitivity, sensitivity, sensitivity_folder
from lissom.verbs.using import doctor, history, inspect, layers, models, predict, report, serve

__all__ = [
    "ask",
    "bench",
    "check",
    "compare",
    "dissect",
    "distill",
    "divergence",
    "doctor",
    "evaluate",
    "export",
    "history",
    "inspect",
    "judge",
    "layers",
    "load",
    "load_data",
    "models",
    "open_model",
    "open_models",
    "package",
    "plan_bench",
    "plan_dissect",
    "plan_load",
    "plan_package",
    "plan_prune",
    "plan_quantize",
    "plan_sensitivity",
    "predict",
    "prune",
    "quantize",
    "random_operators",
    "recipe_of",
    "report",
    "sensitivity",
    "sensitivity_folder",
    "serve",
    "sweep",
    "train",
    "verify",
]
