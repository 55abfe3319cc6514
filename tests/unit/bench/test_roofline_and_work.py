"""What the machine can do at most, what a model has to do, and how near it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.unit.small import Chain

from lissom.bench import roofline
from lissom.bench.roofline import Ceilings, attained, ceilings
from lissom.bench.work import _of_onnx, works_of
from lissom.models.catalogue import flops_of
from lissom.structure import load_model

ROOF = Ceilings("cpu", 2, {"float32": 100e9, "int8": 400e9}, 10e9)


def test_few_operations_a_byte_are_bound_by_memory_and_many_by_computing() -> None:
    low = attained(1e9, 1e9, 1.0, ROOF, "float32")
    assert low is not None
    assert (low.bound, low.roof, low.share) == ("memory", 10e9, 0.1)
    high = attained(50e9, 1e6, 1.0, ROOF, "int8")
    assert high is not None
    assert (high.bound, high.roof, high.share) == ("compute", 400e9, 0.125)


@pytest.mark.parametrize(("moved", "seconds", "kind"), [(1, 1, "float16"), (0, 1, "int8"), (1, 0, "int8")])
def test_without_a_ceiling_or_a_figure_there_is_no_share(moved: float, seconds: float, kind: str) -> None:
    assert attained(1e9, moved, seconds, ROOF, kind) is None


def test_ceilings_are_measured_once_and_leave_the_threads_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISSOM_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "_SIZE", {"cpu": 64})
    monkeypatch.setattr(roofline, "_COPIED", {"cpu": 1 << 16})
    before = torch.get_num_threads()
    first = ceilings(threads=1)
    assert torch.get_num_threads() == before
    assert first.flops_per_s["float32"] > 1e6
    assert first.bytes_per_s > 1e6
    assert ceilings(threads=1) == first
    (file,) = tmp_path.glob("ceilings-*.json")
    file.write_text("{")
    assert ceilings(threads=1).flops_per_s.keys() == first.flops_per_s.keys()
    assert file.read_text() != "{"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LISSOM_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(roofline, "_SIZE", {"cpu": 32})
    monkeypatch.setattr(roofline, "_COPIED", {"cpu": 1 << 12})
    assert ceilings(threads=1).threads == 1


@pytest.mark.parametrize("source", ["mlp", "resnet", "vit", "bert", "lstm", "gru"])
def test_the_graph_and_torch_count_the_same_operations(chain: Callable[[str], Chain], source: str) -> None:
    trained, exported, _ = chain(source)
    works = works_of([trained, exported])
    assert works[trained.name].flops == works[exported.name].flops
    counted = _of_onnx(exported)
    assert counted == pytest.approx(works[trained.name].flops, rel=0.02)


def test_a_model_in_int8_does_the_work_of_the_one_in_float32(chain: Callable[[str], Chain]) -> None:
    trained, exported, quantized = chain("resnet")
    works = works_of([trained, exported, quantized])
    assert works[quantized.name].flops == works[trained.name].flops
    assert _of_onnx(quantized) == _of_onnx(exported)
    assert works[quantized.name].moved_bytes < works[exported.name].moved_bytes


def test_a_model_without_known_parents_is_counted_by_its_own_graph(chain: Callable[[str], Chain]) -> None:
    _, exported, _ = chain("resnet")
    assert works_of([exported])[exported.name].flops == _of_onnx(exported)


def test_the_count_is_that_of_one_sample(chain: Callable[[str], Chain]) -> None:
    trained, _, _ = chain("mlp")
    model = load_model(trained)
    work = works_of([trained])[trained.name]
    one = torch.zeros(1, *trained.manifest.signature.inputs[0].shape[1:])
    assert work.flops == flops_of(model, [one])
    assert work.moved_bytes > trained.size_bytes
