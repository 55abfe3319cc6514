"""What the page explains that depends on the task: the drop with its interval, and what changed."""

from __future__ import annotations

from html import escape

from lissom.report.reading import is_classification
from lissom.report.schema import Report

_DROP_OF_SHARES = """The drop is the accuracy of the reference minus that of the arm, in points; a negative
drop is a gain. Both models answer the same samples, so the interval is Tango’s score interval for paired
shares: it uses only the samples on which exactly one of the two is right, and stays correct when these are
few."""
_FLIPS = """Samples whose predicted label changed. <em>Lost</em> were right before and are wrong now,
<em>gained</em> the other way round. Equal accuracy with many flips is a different model."""
_DROP_OF_SCORES = """in points (hundredths); a negative drop is a gain. Both models answer the same samples,
so the interval is a t interval over the differences of their scores, one a sample. Where all of these are the
same it allows for samples that differ and were not met."""
_CHANGED = """Samples whose score changed: <em>fell</em> and <em>rose</em> count those that are worse and
better."""
_SKILL = """Skill is 1 minus the absolute error over the spread of the labels: 1 is exact, 0 is as good as
always answering with their median. """


def drop_explained(report: Report) -> str:
    """What the drop, its interval and the changed samples mean."""
    if is_classification(report):
        entries = {"Drop and the Tango interval": _DROP_OF_SHARES, "Flips": _FLIPS}
    else:
        skill = _SKILL if report.task == "regression" else ""
        name = escape(report.score_name)
        drop = f"{skill}The drop is the {name} of the reference minus that of the arm, {_DROP_OF_SCORES}"
        entries = {"Drop and the paired t interval": drop, "Changed": _CHANGED}
    return "\n".join(f"<div><dt>{title}</dt>\n<dd>{words}</dd></div>" for title, words in entries.items())
