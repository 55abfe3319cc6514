"""Baselines that are kept under a name, and replaced only by what no gate speaks against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.report.samples import without_choice
from tests.unit.report.test_comparison import report, written

import lissom
from lissom.cli import main
from lissom.errors import RequestError
from lissom.report.baselines import located
from lissom.report.schema import Report


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failed() -> Report:
    """A run whose gate precision failed."""
    found = report(seed=3)
    states = {"precision": "fail"}
    gates = tuple(
        gate.model_copy(update={"state": states.get(gate.name, gate.state)}) for gate in found.gates
    )
    return found.model_copy(update={"gates": gates})


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_first_run_becomes_the_baseline(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = written(place / "run", report())
    assert main(["compare", "main", after, "--update", "--json"]) == 0
    assert told(capsys)["baseline"] == "baselines/main.json"
    assert (place / "baselines" / "main.json").read_bytes() == (place / "run" / "report.json").read_bytes()
    assert main(["compare", "main", after]) == 0
    assert {path.name for path in (place / "baselines").iterdir()} == {"main.json"}


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
    assert "baseline baselines/main.json is now that of " in capsys.readouterr().out
    assert (place / "baselines" / "main.json").read_bytes() == (place / "new" / "report.json").read_bytes()


def test_without_update_nothing_is_written(place: Path) -> None:
    after = written(place / "run", report())
    assert main(["compare", "main", after]) == 2
    assert not (place / "baselines").exists()


@pytest.mark.parametrize(
    ("limit", "code", "kept"), [("--max-slowdown=0.9", 0, "slow"), ("--allow=not-slower", 0, "slow")]
)
def test_what_the_limits_or_the_user_allow_is_kept(place: Path, limit: str, code: int, kept: str) -> None:
    main(["compare", "main", written(place / "good", report(seed=1)), "--update"])
    slow = written(place / "slow", report(slower=1.5, seed=2))
    assert main(["compare", "main", slow, "--update", limit]) == code
    assert (place / "baselines/main.json").read_bytes() == (place / kept / "report.json").read_bytes()


def test_the_first_baseline_is_judged_by_the_gates_of_its_own_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = written(place / "run", failed())
    assert main(["compare", "main", after, "--update", "--json"]) == 1
    document = told(capsys)
    assert document["baseline"] is None
    assert "baselines/main.json was not written" in str(document["notes"])
    assert not (place / "baselines").exists()
    assert main(["compare", "main", after, "--update", "--allow", "precision"]) == 0
    assert (place / "baselines/main.json").exists()


def test_a_run_without_a_choice_becomes_no_baseline(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "main", written(place / "run", without_choice()), "--update"]) == 2
    assert "has no chosen model" in capsys.readouterr().err
    assert not (place / "baselines").exists()


def test_a_run_on_other_samples_does_not_replace_it(place: Path) -> None:
    main(["compare", "main", written(place / "old", report(seed=1)), "--update"])
    other = report(seed=2)
    names = tuple(f"f{name[1:]}" for name in other.predictions.samples)
    predictions = other.predictions.model_copy(update={"samples": names})
    after = written(place / "new", other.model_copy(update={"predictions": predictions}))
    assert main(["compare", "main", after, "--update"]) == 2
    assert (place / "baselines/main.json").read_bytes() == (place / "old/report.json").read_bytes()


def test_what_is_kept_is_written_byte_for_byte_in_the_folder_that_is_named(place: Path) -> None:
    written(place / "run", report())
    spaced = json.dumps(json.loads((place / "run/report.json").read_bytes()), indent=7)
    (place / "run/report.json").write_text(spaced)
    found = lissom.compare("main", "run", baselines="kept/here", update=True)
    assert found.baseline == Path("kept/here/main.json")
    assert (place / "kept/here/main.json").read_text() == spaced
    assert lissom.compare("main", "run", baselines="kept/here").baseline is None


def test_a_failed_write_leaves_the_old_baseline(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", "main", written(place / "old", report(seed=1)), "--update"])
    fresh = written(place / "new", report(seed=2))

    def broken(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", broken)
    assert main(["compare", "main", fresh, "--update"]) == 2
    assert "cannot be written: Permission denied" in capsys.readouterr().err
    assert [path.name for path in (place / "baselines").iterdir()] == ["main.json"]
    assert (place / "baselines/main.json").read_bytes() == (place / "old/report.json").read_bytes()


def test_a_path_that_exists_wins_over_a_name(place: Path) -> None:
    (place / "baselines").mkdir()
    for name in ("main", "other"):
        (place / "baselines" / f"{name}.json").write_text("{}")
    written(place / "main", report())
    assert located("main", place / "baselines") == Path("main")
    assert located("other", place / "baselines") == place / "baselines/other.json"


def test_an_unknown_name_says_which_are_near_and_how_to_make_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = written(place / "run", report())
    with pytest.raises(RequestError, match="holds no baseline yet"):
        located("main", place / "kept")
    assert main(["compare", "release-1", after, "--update"]) == 0
    assert main(["compare", "releas-1", "run"]) == 2
    said = capsys.readouterr().err
    assert "did you mean release-1?" in said
    assert "lissom compare releas-1 run --update" in said


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "main.json", "é", "x" * 101])
def test_a_name_that_cannot_be_a_file_is_refused(place: Path, name: str) -> None:
    after = written(place / "run", report())
    assert main(["compare", name, after, "--update"]) == 2
    assert main(["compare", name, after]) == 2
    assert [path.name for path in place.iterdir()] == ["run"]


def test_updating_a_path_is_refused_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = written(place / "one", report(seed=1)), written(place / "two", report(seed=2))
    kept = (place / "one/report.json").read_bytes()
    assert main(["compare", before, after, "--update"]) == 2
    assert "--update keeps a baseline by its name" in capsys.readouterr().err
    assert (place / "one/report.json").read_bytes() == kept
    assert not (place / "baselines").exists()


@pytest.mark.parametrize("content", [b"", b'{"schema": "lissom.report/1"}', b"[]"])
def test_a_damaged_report_becomes_no_baseline(place: Path, content: bytes) -> None:
    assert main(["compare", "main", str(place / "nothing"), "--update"]) == 2
    (place / "report.json").write_bytes(content)
    assert main(["compare", "main", str(place / "report.json"), "--update"]) == 2
    assert not (place / "baselines").exists()
