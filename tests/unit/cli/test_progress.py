"""Progress goes to stderr, and is short where nobody watches."""

from __future__ import annotations

import io

import pytest
import rich.console

from lissom.cli.progress import TerminalProgress


def test_without_a_terminal_a_task_is_one_line_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress().task("train", 3) as advance:
        for _ in range(3):
            advance(1)
        assert capsys.readouterr() == ("", "")
    assert capsys.readouterr() == ("", "train: done\n")


def test_a_task_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), TerminalProgress().task("train", 3):
        raise ZeroDivisionError
    assert "done" not in capsys.readouterr().err


def test_on_a_terminal_a_bar_counts_the_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    make = rich.console.Console
    monkeypatch.setattr(
        rich.console,
        "Console",
        lambda stderr: make(file=screen, force_terminal=True, width=100, color_system=None),
    )
    with TerminalProgress().task("train", 3) as advance:
        advance(2)
        advance(1)
    assert "train" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    assert "done" not in screen.getvalue()
    assert capsys.readouterr() == ("", "")
