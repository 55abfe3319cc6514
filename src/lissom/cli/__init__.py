"""The command line: verbs, progress bars, exit codes; no logic."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from lissom.causes import place_of, told
from lissom.errors import Interrupted, LissomError, is_disk_full

INTERNAL = 70
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code of the contract."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in words, "--debug" in words
    verb = next((word for word in words if not word.startswith("-")), "")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(words)
    except BaseException as exc:
        exit_code, message = _explained(exc)
        if debug and not isinstance(exc, SystemExit):
            traceback.print_exc()
        from lissom.cli.output import show_error

        show_error(verb, exc, exit_code=exit_code, message=message, as_json=as_json)
        return exit_code


def _run(words: list[str]) -> int:
    import typer

    from lissom.cli.app import app
    from lissom.cli.notices import shown_warnings

    command = typer.main.get_command(app)
    with shown_warnings():
        result = command.main(words, prog_name="lissom", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _explained(exc: BaseException) -> tuple[int, str]:
    """Exit code and message of anything that was raised."""
    if isinstance(exc, LissomError):
        return exc.exit_code, exc.message
    if _was_interrupted(exc):
        return Interrupted.exit_code, "interrupted"
    if is_disk_full(exc):
        return 3, f"no space left on the disk: {exc}; free some and run again"
    if isinstance(exc, OSError) and exc.filename is not None:
        return USAGE, f"{exc.filename}: {exc.strerror}"
    if usage := _usage_error(exc):
        return USAGE, usage
    if place_of(exc):
        return USAGE, f"code that is not lissom's ended with an error:{told(exc)}"
    return (
        INTERNAL,
        f"a bug in lissom: {type(exc).__name__}: {exc}; run again with --debug and report what it prints",
    )


def _was_interrupted(exc: BaseException | None) -> bool:
    """True for Ctrl-C, also where a library or Python itself has wrapped it into an error of its own."""
    while exc is not None:
        if isinstance(exc, KeyboardInterrupt):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _usage_error(exc: BaseException) -> str | None:
    """The message of an error in the words of the command, as typer's parser raises it."""
    message = getattr(exc, "format_message", None)
    if message is None:
        return "aborted" if type(exc).__name__ == "Abort" else None
    context = getattr(exc, "ctx", None)
    advice = f"; see {context.command_path} --help" if context is not None else ""
    return f"{message()}{advice}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on Ctrl-C, so that nothing is left half-written."""
    raise KeyboardInterrupt
