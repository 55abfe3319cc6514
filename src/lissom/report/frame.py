"""What every page has: a head with the style, a content security policy of its own, and the two scripts.

Only these two scripts may run, by hash, and nothing may be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from string import Template

from lissom.report.drawing import FONT, PALETTE, plotly_script


def framed(body: str, *, title: str, skip: str) -> str:
    """A whole page.

    Args:
        body: Header, `<main id="content">` and footer, as HTML.
        title: Of the page, as HTML.
        skip: Words of the link that skips the header.
    """
    scripts = (plotly_script(), _asset("page.js"))
    return filled(
        "frame.html",
        policy=_content_policy(scripts),
        title=title,
        style=_palette_style() + _asset("page.css"),
        skip=skip,
        body=body,
        twins=json.dumps(dict(PALETTE.values())),
        plotly=scripts[0],
        script=scripts[1],
    )


def filled(template: str, **fields: str) -> str:
    """A template beside this module, its fields replaced by HTML."""
    return Template(_asset(template)).substitute(fields)


def _palette_style() -> str:
    """The palette as variables of CSS, light and dark."""

    def scheme(which: int) -> str:
        return "".join(f"--{name}:{twins[which]};" for name, twins in PALETTE.items())

    return (
        f":root{{color-scheme:light dark;--font:{FONT};{scheme(0)}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{scheme(1)}}}}}\n"
    )


def _content_policy(scripts: tuple[str, ...]) -> str:
    """A content security policy under which these scripts alone may run, and nothing may be fetched."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    """A file beside this module, as text."""
    return (files("lissom.report") / name).read_text(encoding="utf-8")
