"""Every verb as a typer command; each hands its arguments to one function and shows the outcome.

The order in which they are registered is that of `lissom --help`.
"""

from __future__ import annotations

from lissom.cli import making, measuring, packaging, remote, using
from lissom.cli.registration import app

__all__ = ["app", "making", "measuring", "packaging", "remote", "using"]
