"""Warnings of the library, for whoever typed the command: one line each on stderr, above the progress bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lissom.logs import log

_LOUD_WHEN_IMPORTED = ("torchao", "torch.utils._pytree")
"""They tell of GPU kernels that are not here, also when transformers imports torchao for itself."""


class _Notices(logging.Handler):
    """Writes `warning: ...` to what stderr is at that moment, so that a progress bar stays below it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; a second time would tell nothing, as when the same data are read again."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if sys.stderr is not None and text not in self._said:
            self._said.add(text)
            print(text, file=sys.stderr, flush=True)


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Show what the library warns of while a command runs; of several processes only the first one speaks."""
    from lissom.models.processes import place

    for name in _LOUD_WHEN_IMPORTED:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not place().leads:
        yield
        return
    handler = _Notices()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
