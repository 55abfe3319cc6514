"""Ceilings in the cache: what is damaged is measured again, and what is there is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lissom.bench import roofline
from lissom.bench.roofline import Ceilings, ceilings
from lissom.logs import Advance

MEASURED = Ceilings("cpu", 1, {"float32": 1e9}, 2e9)


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        yield lambda steps: self.steps.extend([description] * steps)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LISSOM_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "measure", lambda *, threads, device: MEASURED)
    return tmp_path


def test_progress_is_told_of_a_measurement_and_not_of_a_look_into_the_cache(cache: Path) -> None:
    told = Told()
    assert ceilings(threads=1, progress=told) == MEASURED
    assert len(told.steps) == 1
    assert ceilings(threads=1, progress=told) == MEASURED
    assert len(told.steps) == 1


def test_other_threads_have_ceilings_of_their_own(cache: Path) -> None:
    for threads in (1, 2, 2):
        ceilings(threads=threads)
    assert len(list(cache.glob("ceilings-*.json"))) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"flops_per_s": [1], "bytes_per_s": 1}',
        '{"flops_per_s": {"float32": "fast"}, "bytes_per_s": 1}',
        '{"flops_per_s": {"float32": NaN}, "bytes_per_s": 1}',
        '{"flops_per_s": {"float32": 1}, "bytes_per_s": 0}',
        '{"flops_per_s": {}, "bytes_per_s": 1}',
    ],
)
def test_a_damaged_file_is_measured_again(cache: Path, content: str) -> None:
    ceilings(threads=1)
    (file,) = cache.glob("ceilings-*.json")
    whole = file.read_text()
    file.write_text(content)
    assert ceilings(threads=1) == MEASURED
    assert file.read_text() == whole
