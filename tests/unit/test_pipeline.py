"""The folder of a run is held by one process, and is not left behind when nothing was done in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import lissom
from lissom.cli import main
from lissom.errors import RequestError
from lissom.pipeline import locked


def test_what_fails_before_anything_is_written_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "runs" / "one"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "runs"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "runs" / "one"):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".lock"]


def test_what_was_written_stays(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        (tmp_path / "one" / "logs").mkdir()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), locked(tmp_path / "one"):
        write_and_fail()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [".lock", "logs"]


def test_what_goes_well_keeps_its_folder_and_a_second_process_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "one"):
        with pytest.raises(RequestError, match="another lissom is working"), locked(tmp_path / "one"):
            pass
        assert (tmp_path / "one" / ".lock").exists()
    assert (tmp_path / "one").is_dir()


@pytest.mark.parametrize(
    "words",
    [["--data", "no.npz"], ["--data", "digits", "--kwarg", "hiden=[8]"], ["--data", "digits", "--task", "x"]],
)
def test_a_request_that_is_refused_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    out = tmp_path / "runs" / "train"
    assert main(["train", "mlp", *words, "--runtime", "torch", "--out", str(out)]) == 2
    assert capsys.readouterr().err
    assert not out.parent.exists()


def test_python_leaves_none_either(tmp_path: Path) -> None:
    with pytest.raises(lissom.LissomError, match="no such argument"):
        lissom.train("mlp", "digits", kwargs={"hiden": [8]}, runtimes=["torch"], out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
