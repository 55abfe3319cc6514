"""Logging and progress. Library code logs here and never prints; the command line owns the one display."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from lissom.errors import is_disk_full

log = logging.getLogger("lissom")
log.addHandler(logging.NullHandler())

Found = TypeVar("Found")
Advance = Callable[[int], None]
"""Called with the number of steps that were done since the last call."""

_NOISY_LOGGERS = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "torch.onnx",
    "torch.onnx._internal.exporter",
    "onnxscript",
    "onnx_ir",
    "torch._inductor",
    "torch._dynamo",
    "torch.utils._pytree",
    "torchao",
)


class Progress(Protocol):
    """What a long computation reports to."""

    def task(self, description: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A bar of `total` steps, shown until the context ends."""
        ...


class NoProgress:
    """Shows nothing; the default of the Python API."""

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Take the steps and show none."""
        yield lambda steps: None


def tried(what: str, compute: Callable[[], Found], otherwise: Found) -> Found:
    """Compute what comes after a measurement and must not cost it; gives `otherwise` where that fails.

    Such an addition may fail in a library or in the user's own forward, with any error. A full disk is
    raised all the same, since nothing could be written afterwards.

    Args:
        what: Subject of the warning, such as "the layers of prune on torch".
        compute: Gives the addition.
        otherwise: Stands in its place.
    """
    try:
        return compute()
    except Exception as exc:
        if is_disk_full(exc):
            raise
        log.warning("%s cannot be told: %s", what, str(exc) or type(exc).__name__)
        log.debug("%s", what, exc_info=True)
        return otherwise


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries underneath from writing warnings into our output; errors still raise."""
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    try:
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Keep ONNX Runtime's quantizer silent, which writes to the root logger and prints to stdout.

    Without a handler there, the first warning would give the root logger one that prints everything for good.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    try:
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
