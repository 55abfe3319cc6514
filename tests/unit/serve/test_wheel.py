"""The wheel of the lissom that runs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import lissom
from lissom.errors import MachineError
from lissom.serve import wheel as module
from lissom.serve.wheel import is_from_index, wheel

PACKAGE = Path(lissom.__file__).parent


def test_the_wheel_holds_the_code_that_runs_and_what_pip_needs(tmp_path: Path) -> None:
    name, content = wheel()
    version = distribution("lissom").version
    assert name == f"lissom-{version}-py3-none-any.whl"
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = set(archive.namelist())
        assert archive.read("lissom/errors.py") == (PACKAGE / "errors.py").read_bytes()
    modules = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {one for one in names if ".dist-info/" not in one} == modules
    info = f"lissom-{version}.dist-info"
    assert {f"{info}/{one}" for one in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")} <= names


def test_equal_code_gives_equal_bytes() -> None:
    assert wheel() == wheel()


def test_pip_installs_the_wheel_and_it_runs(tmp_path: Path) -> None:
    name, content = wheel()
    (tmp_path / name).write_bytes(content)
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(tmp_path / "site")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, str(tmp_path / name)]
    subprocess.run(command, check=True, capture_output=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import lissom; print(lissom.__file__)"
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(tmp_path / "site"))
    assert (tmp_path / "site" / "bin" / "lissom").exists()


class Fake:
    """A distribution with these files."""

    version = "9.9"

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def read_text(self, name: str) -> str | None:
        return self._texts.get(name)


@pytest.mark.parametrize(("origin", "expected"), [({}, True), ({"direct_url.json": "{}"}, False)])
def test_what_was_installed_from_a_folder_is_in_no_index(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(
        module, "distributions", lambda name: [Fake({}), Fake({"METADATA": "Name: x", **origin})]
    )
    assert is_from_index() is expected


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "distributions", lambda name: [])
    with pytest.raises(MachineError, match="not installed"):
        wheel()
