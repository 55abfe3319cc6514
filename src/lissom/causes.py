"""What a library or the user's own code raised, in two plain lines: the reason, and the user's line of code.

Exporters of torch raise errors of a hundred lines, in colours, in which the reason stands last or inside of a
cause. The reason is the first paragraph of the innermost error; the line is the innermost frame that belongs
neither to an installed package nor to lissom.
"""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>\S+))?')
_SUMMARY = re.compile(r"^<class '(?:[\w.]*\.)?(?P<kind>\w+)'>:\s*(?P<text>.+)", re.MULTILINE)
_MOST = 400


def told(exc: BaseException) -> str:
    """The reason and, where it is known, the user's line: indented lines to stand below a message."""
    return "".join(f"\n  {line}" for line in filter(None, (reason_of(exc), place_of(exc))))


def reason_of(exc: BaseException) -> str:
    r"""Kind and first paragraph of the innermost error.

    >>> reason_of(ValueError("\x1b[96mno\x1b[0m such axis"))
    'ValueError: no such axis'
    """
    inner = list(_chain(exc))[-1]
    text = _COLOUR.sub("", str(inner)).strip()
    if summary := _SUMMARY.search(text):  # an exporter that tells of an error without having it as its cause
        return _shortened(f"{summary['kind']}: {summary['text'].strip()}")
    lines = [line.strip() for line in text.partition("\n\n")[0].splitlines() if line.strip()]
    return _shortened(f"{type(inner).__name__}: {' '.join(lines)}".removesuffix(": "))


def place_of(exc: BaseException) -> str:
    """File, line and code where the user's own code was at work; empty where it was not.

    Frames are read from tracebacks, and from the texts of errors, into which torch copies those of the code
    that it traced.
    """
    return line_of(frame for one in _chain(exc) for frame in (*_frames(one), *_frames_told(str(one))))


def line_of(frames: Iterable[tuple[str, int, str]]) -> str:
    """The innermost line that is the user's, of frames given as file, line and function; empty for none."""
    found = ""
    for file, line, function in frames:
        if _is_own(file):
            where = f", in {function}" if function else ""
            found = f"{_short(file)}:{line}{where}: {linecache.getline(file, line).strip()}"
    return found.removesuffix(": ")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _frames(exc: BaseException) -> Iterator[tuple[str, int, str]]:
    trace = exc.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        yield code.co_filename, trace.tb_lineno, code.co_name
        trace = trace.tb_next


def _frames_told(text: str) -> Iterator[tuple[str, int, str]]:
    for found in _FRAME.finditer(_COLOUR.sub("", text)):
        yield found["file"], int(found["line"]), found["function"] or ""


def _is_own(file: str) -> bool:
    """False for the standard library, installed packages and lissom, and for code that is in no file."""
    path = Path(file).absolute()
    if not path.is_file() or {"site-packages", "dist-packages"} & {*path.parts}:
        return False
    return not any(path.is_relative_to(place) for place in _NOT_THE_USERS)


_NOT_THE_USERS = (
    Path(__file__).parent,
    Path(sysconfig.get_path("stdlib")),
    Path(sysconfig.get_path("scripts")),
)


def _short(file: str) -> str:
    """Relative to the working directory, where it lies in it."""
    path = Path(file).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _shortened(text: str) -> str:
    """The beginning of a text, up to the end of a word."""
    return text if len(text) <= _MOST else text[:_MOST].rpartition(" ")[0] + " ..."
