"""What opening and calling a model takes of the memory of this process and of the card."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lissom.bench.gpu import Gpu, gpu

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_AGAIN = "5"
"""Makes the kernel count the highest resident size from now on."""


class Memory:
    """Bytes that a block of code took; None where the system does not say.

    Attributes:
        held_bytes: More resident memory after it than before.
        peak_bytes: More resident memory at its highest than before.
        device_bytes: More memory of the card after it than before.
    """

    held_bytes: int | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """As evidence keeps it."""
        return {name: getattr(self, name) for name in ("held_bytes", "peak_bytes", "device_bytes")}


@contextmanager
def taken() -> Iterator[Memory]:
    """Measure what the block takes; its figures are there when it has ended."""
    gc.collect()
    found, before, card = Memory(), _status("VmRSS"), gpu()
    used = _used(card)
    counts_again = _forget_peak()
    yield found
    after, peak = _status("VmRSS"), _status("VmHWM")
    if before is not None and after is not None:
        found.held_bytes = max(0, after - before)
        if counts_again and peak is not None:
            found.peak_bytes = max(0, peak - before)
    if used is not None and (now := _used(card)) is not None:
        found.device_bytes = max(0, now - used)


def _used(card: Gpu | None) -> int | None:
    """Memory of the card, without what torch keeps for later."""
    if card is None:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    return card.used_bytes()


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text(_PEAK_AGAIN)
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if found is None else int(found) * 1024
