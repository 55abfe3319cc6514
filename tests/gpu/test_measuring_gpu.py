"""What the card says of itself, and what is kept of it beside a measurement."""

from __future__ import annotations

import time

import pytest
import torch
from tests.unit.small import DATA

from lissom.artifact import Artifact
from lissom.bench import energy
from lissom.bench.gpu import gpu
from lissom.bench.memory import taken
from lissom.bench.watch import Watch
from lissom.logs import NoProgress
from lissom.recipe import BenchmarkConfig
from lissom.report.measurement import measure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
    pytest.mark.skipif(gpu() is None, reason="nvidia-ml-py is not installed"),
]


def test_the_card_says_what_it_is_and_how_it_is() -> None:
    card = gpu()
    assert card is not None
    assert card.described()["name"] == torch.cuda.get_device_name()
    reading = card.read()
    assert 100 < (reading.sm_mhz or 0) <= card.described()["max_sm_mhz"]
    assert 0 < (reading.celsius or 0) < 110
    assert 1 < (reading.watts or 0) < 2000


def test_memory_of_the_card_is_counted() -> None:
    torch.ones(1, device="cuda")
    with taken() as memory:
        kept = torch.ones(100_000_000, device="cuda")
    assert 380e6 < (memory.device_bytes or 0) < 480e6
    assert kept.is_cuda


def test_computing_takes_more_energy_than_waiting() -> None:
    counters = [counter for counter in energy.counters() if counter.name.startswith("NVML")]
    if not counters:
        pytest.skip("this card has no counter of energy")
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def product() -> None:
        matrix @ matrix
        torch.cuda.synchronize()

    idle = energy.idle_watts(counters, seconds=2.0)
    found = energy.spent(product, counters, seconds=3.0, idle=idle)
    (name,) = found.joules
    whole, above_idle = found.of_a_call()[name]
    assert whole > above_idle > 0
    assert found.joules[name] / found.seconds > 1.5 * idle[name]


def test_a_watch_sees_the_clock_rise() -> None:
    watch = Watch()
    matrix = torch.randn(8192, 8192, device="cuda")
    started = time.monotonic()
    while time.monotonic() - started < 1.0:
        matrix @ matrix
        torch.cuda.synchronize()
    watch.read()
    before, after = (reading.gpu for reading in watch.readings)
    assert before is not None
    assert after is not None
    assert after["sm_mhz"] >= before["sm_mhz"]


def test_a_measurement_on_the_card_keeps_its_readings_memory_and_energy(trained: Artifact) -> None:
    config = BenchmarkConfig(device="cuda", runtimes=("torch",), num_rounds=6, energy_seconds=2.0)
    _, records = measure([trained], config, DATA, progress=NoProgress())
    (record,) = records.values()
    figures = record["runtimes"]["torch"]
    assert record["complete"]
    assert record["environment"]["gpu"]["name"] == torch.cuda.get_device_name()
    assert all(reading["gpu"]["sm_mhz"] for reading in record["readings"])
    assert figures["memory"]["device_bytes"] >= 0
    assert figures["energy"]["num_calls"] > 100
    assert len(figures["rounds_ms"]) >= 6
