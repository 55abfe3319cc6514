"""What an engine complains of is told by its reason, not by the places in its own code that stand before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.foreign.batches import graph, node, whole
from tests.unit.artifacts import tiny_onnx_artifact

from lissom.compress.quantizing.engines import closing
from lissom.errors import LissomError
from lissom.runtime.base import open_runtime
from lissom.runtime.open_vino import reason_of

openvino = pytest.importorskip("openvino")


def unknown(folder: Path) -> None:
    """An operator that OpenVINO does not have."""
    nodes = [node("OptionalHasElement", "x", "y")]
    onnx.save(graph(nodes, {"x": ["n", 6]}, {"y": []}, types={"y": 9}, opset=18), folder / "unknown.onnx")
    openvino.Core().compile_model(str(folder / "unknown.onnx"), "CPU")


def sizes(folder: Path) -> None:
    """Sizes that the graph cannot have."""
    model = graph([node("Reshape", "x to", "y")], {"x": ["n", 6]}, {"y": [2, 3]}, {"to": whole(2, 3)})
    onnx.save(model, folder / "sizes.onnx")
    request = openvino.Core().compile_model(str(folder / "sizes.onnx"), "CPU").create_infer_request()
    request.infer({"x": np.zeros((5, 6), np.float32)})


def absent(folder: Path) -> None:
    """No file."""
    openvino.Core().compile_model(str(folder / "absent.onnx"), "CPU")


REASONS: dict[Callable[[Path], None], str] = {
    unknown: "No conversion rule found for operations: OptionalHasElement-18",
    sizes: "the shape of input data (5.6) conflicts with the reshape pattern (2.3)",
    absent: "Could not open the file",
}


@pytest.mark.parametrize("fail", REASONS)
def test_the_reason_of_openvino_is_told(tmp_path: Path, fail: Callable[[Path], None]) -> None:
    with pytest.raises(RuntimeError) as caught:
        fail(tmp_path)
    found = reason_of(caught.value)
    assert REASONS[fail] in found
    assert "Exception from" not in found
    assert "' failed at" not in found


def test_an_engine_that_fails_while_a_model_is_judged_is_told_by_its_reason(tmp_path: Path) -> None:
    runtime = open_runtime(tiny_onnx_artifact(tmp_path / "tiny"), "openvino", threads=1)
    with pytest.raises(LissomError, match=r"^unknown rank$"), closing(runtime):
        raise RuntimeError("Exception from a.cpp:1:\nCheck 'b' failed at c.cpp:2:\nunknown rank\n")


def test_a_child_process_replies_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from lissom.runtime import child

    def serve(*_: Any) -> None:
        raise RuntimeError("Exception from a.cpp:1:\nCheck 'b' failed at c.cpp:2:\nunknown rank\n")

    replies: list[dict[str, Any]] = []
    monkeypatch.setattr(child, "_serve", serve)
    monkeypatch.setattr(child, "_reply", lambda _, document: replies.append(document))
    child._answer({}, None)  # type: ignore[arg-type]
    assert [one["message"] for one in replies] == ["RuntimeError: unknown rank"]
