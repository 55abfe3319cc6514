"""The verbs that make no artifact, as functions: what the command line shows, as values."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.report import samples

import lissom
from lissom.artifact import canonical_json
from lissom.errors import ArtifactError, RequestError
from lissom.registry import MODELS, RUNTIMES

ROOT = Path(__file__).parents[2]


def test_check_gives_the_recipe_as_it_was_changed() -> None:
    recipe = lissom.check(ROOT / "recipes" / "digits.yaml", ["seed=3"])
    assert isinstance(recipe, lissom.Recipe)
    assert (recipe.name, recipe.seed) == ("digits", 3)


def test_check_refuses_what_is_not_there() -> None:
    with pytest.raises(RequestError, match="unknown data 'digit'; did you mean digits"):
        lissom.check(ROOT / "recipes" / "digits.yaml", ["data.source=digit"])


def test_inspect_compares_every_file_with_its_hash(tmp_path: Path) -> None:
    made = tiny_onnx_artifact(tmp_path / "tiny")
    assert lissom.inspect(made.path).manifest == made.manifest
    next(path for path in (made.path / "payload").iterdir()).write_bytes(b"changed")
    with pytest.raises(ArtifactError):
        lissom.inspect(made.path)


def test_inspecting_what_nothing_here_executes_still_says_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lissom.cli import main

    made = tiny_onnx_artifact(tmp_path / "tiny", format="tensorrt")
    assert main(["inspect", str(made.path), "--out", str(tmp_path / "page")]) == 0
    found = capsys.readouterr().out
    assert "every file matches its hash" in found
    assert "no page" in found


def test_doctor_and_models_give_a_row_each() -> None:
    assert [row.runtime for row in lissom.doctor()] == list(RUNTIMES)
    assert [row.name for row in lissom.models()] == sorted(MODELS)


def test_report_draws_the_pages_again(tmp_path: Path) -> None:
    report = samples.typical()
    (tmp_path / "report.json").write_bytes(canonical_json(report.model_dump(mode="json", by_alias=True)))
    assert lissom.report(tmp_path).verdict == report.verdict
    assert report.verdict.sentence in (tmp_path / "report.md").read_text()
    (tmp_path / "report.html").unlink()
    lissom.report(tmp_path / "report.json")
    assert (tmp_path / "report.html").is_file()


def test_clean_names_what_the_report_does_not_refer_to(tmp_path: Path) -> None:
    report = samples.typical()
    (tmp_path / "report.json").write_bytes(canonical_json(report.model_dump(mode="json", by_alias=True)))
    left = tiny_onnx_artifact(tmp_path / "01-train-left")
    assert lissom.clean(tmp_path, dry_run=True) == [left.path]
    assert left.path.exists()
    assert lissom.clean(tmp_path) == [left.path]
    assert not left.path.exists()


@pytest.mark.parametrize("verb", ["report", "clean"])
def test_a_folder_without_a_report_is_refused(tmp_path: Path, verb: str) -> None:
    with pytest.raises(RequestError, match="no report at"):
        getattr(lissom, verb)(tmp_path)


def test_serve_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        lissom.serve([tmp_path / "none"])
