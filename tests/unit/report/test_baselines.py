"""Baselines that are kept under a name, and replaced only by what no gate speaks against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.report.test_comparison import report, written

from lissom.cli import main
from lissom.errors import RequestError
from lissom.report.baselines import is_saved, located, save


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_first_run_becomes_the_baseline(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = written(place / "run", report())
    assert main(["compare", "main", after, "--update", "--json"]) == 0
    assert told(capsys)["baseline"] == "baselines/main.json"
    assert (place / "baselines" / "main.json").read_bytes() == (place / "run" / "report.json").read_bytes()
    assert main(["compare", "main", after]) == 0


def test_a_worse_run_does_not_replace_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, slow = written(place / "good", report(seed=1)), written(place / "slow", report(slower=1.5, seed=2))
    main(["compare", "main", good, "--update"])
    before = (place / "baselines" / "main.json").read_bytes()
    capsys.readouterr()
    assert main(["compare", "main", slow, "--update", "--json"]) == 1
    assert told(capsys)["baseline"] is None
    assert (place / "baselines" / "main.json").read_bytes() == before


def test_a_run_that_is_no_worse_replaces_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "main", written(place / "old", report(seed=1)), "--update"])
    fresh = written(place / "new", report(slower=0.5, seed=2))
    capsys.readouterr()
    assert main(["compare", "main", fresh, "--update"]) == 0
    assert "baseline 'main' is now baselines/main.json" in capsys.readouterr().out
    assert (place / "baselines" / "main.json").read_bytes() == (place / "new" / "report.json").read_bytes()


def test_without_update_nothing_is_written(place: Path) -> None:
    after = written(place / "run", report())
    assert main(["compare", "main", after]) == 2
    assert not (place / "baselines").exists()


def test_a_path_that_exists_wins_over_a_name(place: Path) -> None:
    written(place / "main", report())
    save("other", place / "main", place / "baselines")
    assert located("main", place / "baselines") == Path("main")
    assert located("other", place / "baselines") == place / "baselines" / "other.json"
    assert is_saved("other", place / "baselines")
    assert not is_saved("main", place / "baselines")


def test_an_unknown_name_says_which_are_near_and_how_to_make_one(place: Path) -> None:
    written(place / "run", report())
    save("release-1", place / "run", place / "kept")
    with pytest.raises(RequestError, match="release-1") as caught:
        located("releas-1", place / "kept")
    assert "--update" in caught.value.hint


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_name_that_cannot_be_a_file_is_refused(place: Path, name: str) -> None:
    after = written(place / "run", report())
    assert main(["compare", name, after, "--update"]) == 2
    assert [path.name for path in place.iterdir()] == ["run"]


def test_updating_a_path_is_refused_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = written(place / "one", report(seed=1)), written(place / "two", report(seed=2))
    assert main(["compare", before, after, "--update"]) == 2
    assert "cannot be the name of a baseline" in capsys.readouterr().err


def test_a_run_without_a_report_becomes_no_baseline(place: Path) -> None:
    assert main(["compare", "main", str(place / "nothing"), "--update"]) == 2
    assert not (place / "baselines").exists()
