"""A wheel of the lissom that runs here, made of its files, for where no index has it.

Neither a build tool nor a network is needed, and the wheel holds the code that runs, not that of a checkout
which has moved on. Equal code gives equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from lissom.errors import MachineError

_NAME = "lissom"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: lissom\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_COPIED = ("entry_points.txt", "top_level.txt", "licenses/LICENSE")


def installed() -> Distribution:
    """What pip knows of the lissom that runs.

    Raises:
        MachineError: it is not installed, only found on a path.
    """
    found = [one for one in distributions(name=_NAME) if one.read_text("METADATA")]
    if not found:
        raise MachineError("lissom is not installed, so a package cannot name it", hint="pip install -e .")
    return found[0]


def is_from_index() -> bool:
    """True where it was installed by name and version, so that another machine can do the same."""
    return installed().read_text("direct_url.json") is None


def brought_by(extra: str) -> list[str]:
    """Distributions that an extra of lissom installs.

    Raises:
        MachineError: lissom is not installed.
    """
    asked = re.compile(rf"""([\w.-]+).*\bextra == ['"]{re.escape(extra)}['"]""")
    return [match[1] for line in installed().requires or () if (match := asked.match(line))]


def wheel() -> tuple[str, bytes]:
    """Name and content of a wheel of the code that runs.

    Raises:
        MachineError: lissom is not installed.
    """
    distribution = installed()
    stem = f"{_NAME}-{distribution.version}"
    info = f"{stem}.dist-info"
    content, record = io.BytesIO(), []
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*_modules(), *_metadata(distribution, info)]:
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")
            _add(archive, name, data)
        _add(archive, f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]).encode())
    return f"{stem}-py3-none-any.whl", content.getvalue()


def _modules() -> Iterator[tuple[str, bytes]]:
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(package.parent).as_posix(), path.read_bytes()


def _metadata(distribution: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    yield f"{info}/METADATA", (distribution.read_text("METADATA") or "").encode()
    yield f"{info}/WHEEL", _WHEEL.encode()
    for name in _COPIED:
        if text := distribution.read_text(name):
            yield f"{info}/{name}", text.encode()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
