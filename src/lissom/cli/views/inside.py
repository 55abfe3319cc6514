"""How a look inside a model looks: beside what is known about the artifact, the page and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.cli.output import Outcome
from lissom.cli.progress import TerminalProgress
from lissom.cli.views.words import duration

if TYPE_CHECKING:
    from lissom.artifact import Artifact


def with_page(known: Outcome, artifact: Artifact, request: Mapping[str, Any], out: Path | None) -> Outcome:
    """What is known, and the page that was drawn in `out`; None only says how long it would take.

    The artifact is told of without its page where its data are gone or nothing here executes it, unless a
    page was asked for by an option.
    """
    from lissom import verbs
    from lissom.errors import LissomError

    try:
        if out is None:
            seconds = verbs.plan_dissect(artifact, **request)
            return _beside(known, [f"a page would take about {duration(seconds)}"], {"seconds": seconds})
        found = verbs.dissect(artifact, out=out, progress=TerminalProgress(), **request)
    except LissomError as exc:
        if any(request[name] is not None for name in ("data", "against", "layer", "num_samples")):
            raise
        return _beside(
            known, [f"no page: {exc.message}", *([exc.hint] if exc.hint else [])], {"inspection": None}
        )
    from lissom.report.dissection import document
    from lissom.report.dissection_page import HTML_FILE, JSON_FILE, told

    whole, sentences = document(found), told(found)
    kept = {key: whole[key] for key in ("data", "split", "explanations", "remarks")}
    files = {"page": str(out / HTML_FILE), "json": str(out / JSON_FILE)}
    lines = [*sentences, *found.remarks, f"page: {out / HTML_FILE}"]
    return _beside(known, lines, {"inspection": {**files, "summary": " ".join(sentences), **kept}})


def _beside(known: Outcome, lines: list[str], extra: Mapping[str, Any]) -> Outcome:
    return replace(known, lines=[*known.lines, "", *lines], extra={**known.extra, **extra})
