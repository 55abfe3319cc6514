"""What the library warns of reaches whoever typed the command, on stderr, once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rich.console
from PIL import Image

from lissom.cli import main
from lissom.cli.notices import shown_warnings
from lissom.cli.progress import TerminalProgress
from lissom.logs import log


@pytest.fixture(autouse=True)
def handlers_are_left_as_they_were() -> Iterator[None]:
    before = list(log.handlers)
    yield
    assert log.handlers == before


def photos(folder: Path, *, count: int = 80) -> Path:
    """Class folders in train/, and a val/ that has none."""
    generator = np.random.default_rng(0)
    for index in range(count):
        file = folder / "train" / ("cat", "dog")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    (folder / "val").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "val" / "0.png")
    return folder


@pytest.mark.parametrize("as_json", [False, True])
def test_a_folder_that_is_left_out_is_named_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    folder = photos(tmp_path / "photos")
    words = ["train", "mlp", "--data", str(folder), "--runtime", "torch", "--dry-run"]
    assert main([*words, *(["--json"] if as_json else [])]) == 0
    captured = capsys.readouterr()
    expected = f"warning: {folder / 'val'} is left out: it has no subfolder for each class"
    assert captured.err.splitlines().count(expected) == 1
    assert "left out" not in captured.out
    if as_json:
        assert json.loads(captured.out)["ok"] is True


@pytest.mark.parametrize("split", ["select", "report"])
def test_a_class_that_a_named_split_lacks_is_named_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    labels = np.arange(80) % 2
    splits = np.repeat(["train", "calibrate", "select", "report"], 20)
    labels[splits == split] = 0
    samples = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    np.savez(tmp_path / "own.npz", x=samples, y=np.array(["cat", "dog"])[labels], split=splits)
    words = ["--data", str(tmp_path / "own.npz"), "--runtime", "torch", "--dry-run"]
    assert main(["train", "mlp", *words]) == 0
    error = capsys.readouterr().err
    assert (
        f"warning: {tmp_path / 'own.npz'}: the {split} split (20 samples) has no sample of class 'dog'"
        in error
    )
    assert error.count("warning") == 1


def test_the_same_warning_is_said_once_and_the_next_command_says_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        with shown_warnings():
            for _ in range(3):
                log.warning("the part %s is left out", "val")
        assert capsys.readouterr() == ("", "warning: the part val is left out\n")


def test_what_is_no_warning_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with shown_warnings():
            log.info("drawing glyphs")
    finally:
        log.setLevel(level)
    assert capsys.readouterr() == ("", "")


def test_a_process_that_follows_another_leaves_the_word_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    with shown_warnings():
        log.warning("heard twice")
    assert capsys.readouterr() == ("", "")


def test_a_warning_stands_on_a_line_of_its_own_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    make = rich.console.Console
    monkeypatch.setattr(
        rich.console,
        "Console",
        lambda stderr: make(file=screen, force_terminal=True, width=100, color_system=None),
    )
    with shown_warnings(), TerminalProgress().task("train", 3) as advance:
        advance(1)
        log.warning("MLflow cannot be written")
        advance(2)
    lines = [line.rpartition("\r")[2].rpartition("\x1b[2K")[2] for line in screen.getvalue().split("\n")]
    assert "warning: MLflow cannot be written" in lines
    assert "3/3" in screen.getvalue().rpartition("warning:")[2]


def test_what_torchao_says_of_gpus_when_it_is_imported_is_not_shown() -> None:
    with shown_warnings():
        assert not logging.getLogger("torchao").isEnabledFor(logging.WARNING)
