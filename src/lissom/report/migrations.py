"""Reports of an older lissom, brought to the schema of this one, step by step.

Every step is a function from one raw document to the next. It adds what can be found in the document itself,
and says that the rest is unknown; figures are never rounded and never made up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lissom.errors import RequestError

Document = dict[str, Any]
Step = Callable[[Document], Document]
_SCHEMA = re.compile(r"lissom\.report/(0|[1-9][0-9]{0,8})")


def migrated(document: object, path: Path, *, steps: Mapping[int, Step] | None = None) -> Document:
    """A raw document in the schema of this lissom; the one that was given is not changed.

    Args:
        document: As it was read.
        path: Where, for the messages.
        steps: What makes the next version of each; default: those of this lissom.

    Raises:
        RequestError: it is no report, damaged, or of a newer schema.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    found = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if not isinstance(document, dict) or found is None:
        raise RequestError(
            f"{path} is not a report of a run: its schema is {schema!r}",
            hint="name the folder of a run, or its report.json",
        )
    known = _STEPS if steps is None else steps
    wanted, version = max(known) + 1, int(found[1])
    if version > wanted:
        raise RequestError(
            f"{path} was written by lissom {document.get('lissom', 'unknown')} in the schema {schema}; this "
            f"lissom reads up to lissom.report/{wanted}",
            hint="pip install -U lissom",
        )
    for number in range(version, wanted):
        if number not in known:
            raise RequestError(f"{path}: the schema {schema} is unknown", hint="run the recipe again")
        try:
            document = {**known[number](document), "schema": f"lissom.report/{number + 1}"}
        except (LookupError, TypeError, AttributeError, ValueError) as exc:
            raise RequestError(
                f"{path} is damaged: a part that every report of {schema} has is missing or of another kind "
                f"({type(exc).__name__}: {exc})",
                hint="run the recipe again, or restore the file from a copy",
            ) from exc
    return document


def _with_what_was_seen(old: Document) -> Document:
    """From 1 to 2: percentiles with their bounds, found from the raw calls; what was not asked is unknown."""
    defaults: Document = {
        "task": "classification",
        "score_name": "accuracy",
        "remarks": [],
        "control": None,
        "unfit": [],
        "readings": [],
        "ceilings": None,
        "layers": None,
    }
    unseen: Document = {"scores": {}, "certainty": {}, "groups": [], "flips": []}
    predictions = {**unseen, **old["predictions"]}
    control = {"rounds": [], **old["control"]} if old.get("control") else None
    stages = [{"flops": None, "moved_bytes": None, **row} for row in old["stages"]]
    arms = [_seen(arm) for arm in old["arms"]]
    known = {"predictions": predictions, "stages": stages, "arms": arms, "control": control}
    return {**defaults, **old, **known}


def _seen(arm: Document) -> Document:
    unknown: Document = {"metrics": {}, "warmup": None, "memory": None, "energy": [], "roofline": None}
    latency, parity = arm["latency"], arm["parity"]
    if latency is not None and not latency.get("percentiles"):
        latency = {**latency, "percentiles": _percentiles(latency["rounds_ms"])}
    if parity is not None:
        parity = {"max_relative_error": None, "mean_relative_error": None, **parity}
    return {**unknown, **arm, "latency": latency, "parity": parity}


def _percentiles(rounds_ms: list[list[float]]) -> list[Document]:
    import numpy as np

    from lissom.report.building import percentile_figures

    samples = np.concatenate([np.asarray(own) for own in rounds_ms])
    return [found.model_dump(mode="json") for found in percentile_figures(samples)]


def _with_the_pair(old: Document) -> Document:
    """From 2 to 3: batch sizes and rates were not asked, and flips not explained."""
    unknown: Document = {"before_map": None, "after_map": None, "before_weights": [], "after_weights": []}
    told = old["predictions"]
    flips = [{**unknown, **flip} for flip in told["flips"]]
    return {"batches": [], "load": [], "slo_ms": None, **old, "predictions": {**told, "flips": flips}}


_STEPS: Mapping[int, Step] = {1: _with_what_was_seen, 2: _with_the_pair}
