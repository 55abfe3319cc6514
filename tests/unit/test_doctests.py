"""What the docstrings show is true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lissom
from lissom.errors import MissingExtra

NAMES = [
    "lissom",
    *(
        module.name
        for module in pkgutil.walk_packages(lissom.__path__, "lissom.")
        if not module.name.endswith("__main__")
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_module_give_what_they_show(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except (ModuleNotFoundError, MissingExtra) as exc:
        pytest.skip(f"{name} needs a library that is not installed: {exc}")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    shown = [example for example in finder.find(importlib.import_module("lissom.errors")) if example.examples]
    assert [example.name for example in shown] == ["lissom.errors.near"]
