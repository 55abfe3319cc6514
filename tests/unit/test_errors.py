"""The tree of errors is what its drawing says."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lissom
from lissom import errors
from lissom.errors import LissomError, is_disk_full, near, near_files

DRAWN = dict(re.findall(r"^[\s│├└─]*(\w+)\s+(\d+)\s", errors.__doc__ or "", flags=re.MULTILINE))


def every_error() -> set[type[LissomError]]:
    """Every subclass that any module of lissom defines."""
    for module in pkgutil.walk_packages(lissom.__path__, "lissom."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[type[LissomError]] = set()
    waiting = [LissomError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            # The server answers a request by raising a status; that never leaves lissom.serve.
            if kind not in found and re.match(r"lissom\.(?!serve\.)", kind.__module__):
                found.add(kind)
                waiting.append(kind)
    return found


def test_every_error_of_the_package_is_in_the_one_tree_and_exported() -> None:
    found = every_error()
    assert {kind.__module__ for kind in found} == {"lissom.errors"}
    assert {kind.__name__ for kind in found} | {"LissomError"} <= set(errors.__all__)
    assert {kind.__name__ for kind in found} == set(DRAWN)


@pytest.mark.parametrize(("name", "exit_code"), DRAWN.items())
def test_an_error_ends_with_the_exit_code_of_the_drawing(name: str, exit_code: str) -> None:
    assert getattr(errors, name).exit_code == int(exit_code)


def test_the_drawing_shows_who_inherits_from_whom() -> None:
    above: list[tuple[int, str]] = [(-1, "LissomError")]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([\s│├└─]*)(\w+)\s+\d+\s", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        while above[-1][0] >= depth:
            above.pop()
        assert getattr(errors, name).__bases__ == (getattr(errors, above[-1][1]),)
        above.append((depth, name))
    assert len(DRAWN) == 12


def test_an_error_that_nobody_named_counts_as_our_own_bug() -> None:
    assert LissomError.exit_code == 70


@pytest.mark.parametrize("name", DRAWN)
def test_an_error_keeps_its_message_and_its_hint(name: str) -> None:
    error = getattr(errors, name)("what was asked, what was found", hint="what to type next")
    assert (str(error), error.message) == ("what was asked, what was found",) * 2
    assert error.hint == "what to type next"
    assert inspect.getdoc(type(error))


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EACCES, "denied"), False),
        (ValueError(errno.ENOSPC), False),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error: BaseException, full: bool) -> None:
    assert is_disk_full(error) is full


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_a_word_is_offered_names_that_are_known(word: str, known: list[str]) -> None:
    sentence = near(word, known)
    assert any(name in sentence for name in known)
    assert sentence.startswith(("did you mean ", "known: "))


def test_a_path_where_nothing_is_is_offered_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("samples.npz", "other.npz", "notes.txt", ".hidden.npz"):
        (tmp_path / name).touch()
    assert near_files(tmp_path / "sampels.npz") == f"did you mean {tmp_path / 'samples.npz'}?"
    assert near_files(tmp_path / "x.npz") == f"{tmp_path} holds other.npz, samples.npz"
    assert near_files(tmp_path / "x.csv") == f"{tmp_path} holds nothing that ends in .csv"
    assert near_files(tmp_path / "no" / "x.csv") == f"there is no folder {tmp_path / 'no'}"


def test_of_many_files_five_are_named(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.npz").touch()
    assert near_files(tmp_path / "samples.npz").endswith("holds 0.npz, 1.npz, 2.npz, 3.npz, 4.npz and 3 more")


def test_a_word_that_is_one_letter_off_is_offered_the_right_one() -> None:
    assert near("quantise", ["train", "quantize", "export"]) == "did you mean quantize?"
