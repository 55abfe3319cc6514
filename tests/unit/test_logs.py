"""Libraries underneath are kept quiet, and only for as long as we call them."""

from __future__ import annotations

import logging
import warnings

import pytest

from lissom.logs import NoProgress, log, quiet_libraries, quiet_quantizer

NOISY = "torch.onnx"


def test_the_logger_of_the_library_writes_nothing_of_its_own_accord() -> None:
    assert log.name == "lissom"
    assert any(isinstance(handler, logging.NullHandler) for handler in log.handlers)


def test_no_progress_takes_steps_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with NoProgress().task("train", 3) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_warnings_and_chatter_are_held_back_inside(caplog: pytest.LogCaptureFixture) -> None:
    noisy = logging.getLogger(NOISY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn("noise", stacklevel=1)
            noisy.warning("noise")
            noisy.error("a real problem")
        warnings.warn("heard", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["heard"]
    assert [record.message for record in caplog.records] == ["a real problem"]


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.CRITICAL])
def test_the_levels_of_the_loggers_come_back_also_after_an_error(level: int) -> None:
    noisy = logging.getLogger(NOISY)
    before = noisy.level
    noisy.setLevel(level)
    try:
        with pytest.raises(ZeroDivisionError), quiet_libraries(), quiet_libraries():
            raise ZeroDivisionError
        assert noisy.level == level
    finally:
        noisy.setLevel(before)


def test_errors_still_raise() -> None:
    with pytest.raises(ValueError, match="real"), quiet_libraries():
        raise ValueError("real")


def test_a_quantizer_that_warns_leaves_the_root_logger_as_it_was(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    with quiet_quantizer():
        logging.warning("axis out of range")
        print("calibrated")
    assert (root.handlers, root.level) == ([], level)
    assert capfd.readouterr() == ("", "")
