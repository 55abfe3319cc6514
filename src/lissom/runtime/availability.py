"""Which runtimes this machine has. Nothing heavy is imported; `lissom doctor` proves that they work."""

from __future__ import annotations

from collections.abc import Sequence

from lissom.artifact import Manifest
from lissom.errors import MissingExtra
from lissom.optional import is_installed
from lissom.registry import RUNTIMES, runtime_entry
from lissom.runtime.machine import compiler


def usable_runtimes(requested: Sequence[str] | None) -> list[str]:
    """The runtimes to measure on: those asked for, or every one that is installed.

    Raises:
        MissingExtra: one that was asked for is not installed.
    """
    if requested is None:
        return [name for name in RUNTIMES if absence(name) is None]
    for name in requested:
        if found := absence(name):
            raise MissingExtra(f"the runtime {name} was asked for, but {found[0]}", hint=found[1])
    return list(requested)


def unfit_runtimes(manifest: Manifest) -> dict[str, str]:
    """Why a model is not offered on runtimes, by name: on those its int8 file was proven not to hold.

    They stand in the notes of the stage `quantize`, under `engines`. Where it holds on none, none is unfit:
    what is asked for is then served, and its gates say what it is worth.
    """
    proofs = [proof for proof in manifest.notes.get("engines", ()) if proof["arithmetic"] == "native"]
    unfit = {proof["runtime"]: str(proof["fault"]) for proof in proofs if not proof["offered"]}
    return unfit if len(unfit) < len(manifest.notes.get("engines", ())) else {}


def absence(name: str) -> tuple[str, str] | None:
    """Why a runtime cannot be used here, and what to type; None when it can."""
    entry = runtime_entry(name)
    if not is_installed(entry.module):
        return f"{entry.distribution} is not installed", f"pip install 'lissom[{entry.extra}]'"
    if name in ("inductor", "aotinductor") and compiler() is None:
        return "there is no C++ compiler", "apt-get install g++"
    return None
