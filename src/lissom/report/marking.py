"""Texts with their parts on the colour of what they weigh."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

FOR, AGAINST = (224, 96, 0), (43, 79, 209)
"""Colours of what speaks for a class and against it: orange and blue, told apart by every eye."""


def marked(parts: Sequence[str], scores: Sequence[float]) -> str:
    """Parts of a text on colours of what they weigh, as HTML; the strongest is coloured most."""
    strongest = max((abs(score) for score in scores), default=0.0) or 1.0
    marked = []
    for part, score in zip(parts, scores, strict=True):
        red, green, blue = FOR if score > 0 else AGAINST
        share = round(0.4 * abs(score) / strongest, 2)
        colour = f"rgb({red} {green} {blue}/{share})"
        marked.append(f'<i style="background:{colour}">{escape(part)}</i>' if share else escape(part))
    return "".join(marked)
