"""What is timed is asked for here, where no other test runs beside it."""

from __future__ import annotations

from pathlib import Path

from tests.unit.compress.test_pruning import previewed


def test_a_preview_predicts_no_slower_model(tmp_path: Path) -> None:
    found = previewed(tmp_path, "resnet", ratio=0.5, round_to=4)
    assert found.predicted is not None
    assert 0 < found.predicted < 1.2
