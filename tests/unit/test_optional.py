"""A missing library is always the same clear error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lissom.errors import MissingExtra
from lissom.optional import is_installed, require, version


def test_what_is_installed_is_imported() -> None:
    assert require("json", extra="cpu") is sys.modules["json"]
    assert require("os.path", extra="cpu") is sys.modules["os.path"]


def test_what_is_missing_names_the_library_and_the_extra() -> None:
    with pytest.raises(MissingExtra, match="no_such_library is not installed") as caught:
        require("no_such_library.part", extra="cpu")
    assert caught.value.hint == "pip install 'lissom[cpu]'"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_library_that_lacks_another_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_library.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match="no_such_dependency"):
        require("needy_library", extra="cpu")


def test_other_failures_of_a_library_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="broken"):
        require("broken_library", extra="cpu")


def test_asking_whether_a_library_is_installed_does_not_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet_library.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("quiet_library")
    assert "quiet_library" not in sys.modules


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part", "json.no_such_part"])
def test_what_cannot_be_imported_is_not_installed(module: str) -> None:
    assert is_installed(module) is False


def test_the_version_of_what_is_missing_is_absent() -> None:
    assert version("no-such-distribution") == "absent"
    assert version("numpy")[0].isdigit()
