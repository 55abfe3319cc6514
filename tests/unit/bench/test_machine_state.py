"""What the machine says of itself: the card through NVML, energy, memory, and readings between rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lissom.bench import energy, watch
from lissom.bench.environment import environment, host_index
from lissom.bench.gpu import Gpu, GpuReading, gpu
from lissom.bench.watch import Watch, notices, unfit

FREED = """
import json
from lissom.bench.memory import taken

with taken() as memory:
    freed = bytearray(150_000_000)
    del freed
    kept = bytearray(40_000_000)
print(json.dumps([memory.held_bytes, memory.peak_bytes, memory.device_bytes]))
"""
"""In a process of its own: what other tests left keeps memory for later."""


class NvmlError(Exception):
    pass


def refused(*args: Any) -> Any:
    raise NvmlError("not supported")


def card(**answers: Any) -> Gpu:
    """A card that answers what is given, and refuses every other question."""
    names = [
        *("nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetClockInfo"),
        *("nvmlDeviceGetTemperature", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo"),
        *("nvmlDeviceGetName", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPowerManagementLimit"),
        "nvmlSystemGetDriverVersion",
    ]
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, "NVMLError": NvmlError}
    found = {name: (lambda *args, name=name: answers[name]) if name in answers else refused for name in names}
    return Gpu(SimpleNamespace(**constants, **found), handle=0)


@pytest.fixture
def no_card() -> Iterator[None]:
    gpu.cache_clear()
    yield
    gpu.cache_clear()


def test_a_card_is_read_in_its_units() -> None:
    found = card(
        nvmlDeviceGetPowerUsage=71_800,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x1 | 0x4 | 0x40,
        nvmlDeviceGetClockInfo=1980,
        nvmlDeviceGetTemperature=36,
        nvmlDeviceGetTotalEnergyConsumption=2_509_629,
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=12),
    )
    assert found.read() == GpuReading(1980, 1980, 36, 71.8, ("power cap", "heat, by hardware"))
    assert found.joules() == 2509.629
    assert found.used_bytes() == 12


def test_what_a_card_does_not_say_is_none() -> None:
    found = card(nvmlSystemGetDriverVersion="580")
    assert found.read() == GpuReading(None, None, None, None, ())
    assert found.joules() is None
    assert found.used_bytes() is None
    assert found.described()["name"] is None


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_process_that_may_use_no_card_sees_none(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu() is None


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize("visible", ["1", "GPU-4e9e"])
def test_the_first_card_that_may_be_used_is_asked(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    asked: list[tuple[str, Any]] = []
    library = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: asked.append(("index", index)),
        nvmlDeviceGetHandleByUUID=lambda name: asked.append(("uuid", name)),
        __spec__=SimpleNamespace(),
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{visible},0")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert gpu() is not None
    assert asked == [("index", 1) if visible == "1" else ("uuid", "GPU-4e9e")]


@pytest.mark.usefixtures("no_card")
def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(NVMLError=NvmlError, nvmlInit=refused, __spec__=SimpleNamespace())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert gpu() is None


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two zones: a package, and a part of it."""
    for zone in ("intel-rapl:0", "intel-rapl:0:0"):
        folder = tmp_path / zone
        folder.mkdir()
        (folder / "name").write_text("package-0\n")
        (folder / "max_energy_range_uj").write_text("100000000\n")
        (folder / "energy_uj").write_text("99000000\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "gpu", lambda: None)
    return tmp_path / "intel-rapl:0" / "energy_uj"


def test_energy_of_a_call_is_what_the_counter_moved_also_when_it_wraps(rapl: Path) -> None:
    (counter,) = energy.counters()
    assert counter.name == "RAPL package-0"

    def call() -> None:
        rapl.write_text("3000000\n")  # 99 J, wraps at 100 J, then 3 J: 4 J were taken

    rapl.write_text("99000000\n")
    before = counter.read()
    call()
    assert counter.between(before, counter.read()) == pytest.approx(4.0)


def test_the_idle_machine_is_taken_off(rapl: Path) -> None:
    found = energy.Energy(10, 2.0, {"RAPL package-0": 50.0}, {"RAPL package-0": 5.0})
    assert found.of_a_call() == {"RAPL package-0": (5.0, 4.0)}


def test_energy_is_counted_over_many_calls(rapl: Path) -> None:
    counters = energy.counters()
    calls: list[int] = []
    found = energy.spent(lambda: calls.append(1), counters, seconds=0.02, idle={"RAPL package-0": 0.0})
    assert len(calls) == found.num_calls + 1
    assert found.seconds >= 0.02
    assert energy.idle_watts(counters, seconds=0.01) == {"RAPL package-0": 0.0}


def test_a_machine_without_counters_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    monkeypatch.setattr(energy, "gpu", lambda: card())
    assert energy.counters() == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says so")
def test_memory_that_was_freed_again_counts_for_the_peak_alone() -> None:
    told = subprocess.check_output([sys.executable, "-c", FREED], text=True)
    held, peak, device = json.loads(told)
    assert 35e6 < held < 60e6
    assert peak is None or 140e6 < peak < 220e6
    assert device is None or device >= 0


def test_a_watch_adds_a_reading_each_time() -> None:
    found = Watch()
    found.read()
    assert len(found.readings) == 2
    assert found.readings[0].seconds <= found.readings[1].seconds
    assert found.record()[0].keys() == set(watch.Reading._fields)


def reading(seconds: float, **values: Any) -> dict[str, Any]:
    plain = {
        "cpu_mhz": None,
        "cpu_celsius": None,
        "throttled": None,
        "others": 0.0,
        "stolen": 0.0,
        "gpu": None,
    }
    return {"seconds": seconds, **plain, **values}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"throttled": 3}, "slowed down for heat 3 times"),
        ({"stolen": 0.4}, "the host gave 40% of the cores"),
        ({"gpu": {"slowdowns": ("heat",)}}, "the card was slowed down: heat"),
    ],
)
def test_a_machine_that_changes_its_speed_is_unfit(values: dict[str, Any], words: str) -> None:
    (found,) = unfit([reading(0.0, throttled=0 if "throttled" in values else None), reading(1.0, **values)])
    assert words in found


def test_a_quiet_machine_is_fit() -> None:
    readings = [reading(0.0, throttled=7), reading(1.0, throttled=7, gpu={"slowdowns": ("power cap",)})]
    assert unfit(readings) == []
    assert notices(readings) == ["the card was held at its power limit"]


def test_a_long_reading_weighs_more_than_a_short_one() -> None:
    assert unfit([reading(0.0), reading(0.1, stolen=1.0), reading(10.0, stolen=0.0)]) == []
    assert len(unfit([reading(0.0), reading(0.1, stolen=0.0), reading(10.0, stolen=0.3)])) == 1


def test_the_environment_says_how_fast_the_machine_was() -> None:
    found = environment()
    assert found["host_index"] > 0.05
    assert found["memory_available_bytes"] > 0
    assert {"load_average", "governor", "container", "git", "gpu", "cpu_limit"} <= found.keys()


def test_the_host_index_hardly_changes_from_one_time_to_the_next() -> None:
    assert 0.4 < host_index() / host_index() < 2.5
