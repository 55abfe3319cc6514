"""What the pages of both sensitivities have: of groups that are pruned, and of layers in int8.

A page has a summary, one plot, every figure in a table, and how to read them. It is one file that works
offline, on a phone, in light and dark.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from lissom.artifact import canonical_json, write_atomic
from lissom.compress.layer_noise import LayerNoise
from lissom.compress.sensitivity import Sensitivity
from lissom.report.drawing import Drawing
from lissom.report.frame import filled, framed
from lissom.report.sections import plot

JSON_FILE, HTML_FILE = "sensitivity.json", "sensitivity.html"
NAME_LENGTH = 22
"""Letters of a name that fit beside the plot on a phone."""


def write_files(folder: Path, document: dict[str, Any], page: str) -> None:
    """Write what was measured as JSON, and its page."""
    write_atomic(folder / JSON_FILE, canonical_json(document))
    write_atomic(folder / HTML_FILE, page.encode())


def sensitivity_page(
    found: Sensitivity | LayerNoise,
    drawing: Drawing,
    *,
    name: str,
    title: str,
    target: str,
    heading: str,
    caption: str,
    table: str,
    terms: str,
) -> str:
    """The whole page.

    Args:
        found: What was measured.
        drawing: Its plot, whose text alternative is the summary.
        name: Id of the section with the plot.
        title: Of the page, as text.
        target: What it was measured for, as text.
        heading: Of the section with the plot.
        caption: Of the plot.
        table: Every figure, as HTML.
        terms: Entries of the list that says how to read the figures, as HTML.
    """
    body = filled(
        "sensitivity.html",
        model=escape(found.model),
        data=escape(found.data),
        target=escape(target),
        machine=escape(found.machine),
        figure=name,
        heading=heading,
        summary=escape(drawing.label),
        plot=plot(drawing, "", caption, ""),
        table=table,
        terms=terms,
    )
    return framed(body, title=f"{escape(title)} · lissom", skip="Skip to the figures")
