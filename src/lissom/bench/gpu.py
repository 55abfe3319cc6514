"""What an NVIDIA GPU says of itself through NVML: clocks, heat, power, energy, memory, why it slows down.

Nothing is estimated: what the driver does not say is None. The counter of energy moves every 20 to 100 ms and
the power is a mean over the last second on most cards, so neither says anything of a single call.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from lissom.optional import is_installed, require

_Value = TypeVar("_Value")

SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat",
    0x40: "heat, by hardware",
    0x80: "power brake",
}
"""Reasons for which a card computes slower than it could, by their bit; being idle is none."""


class GpuReading(NamedTuple):
    """A moment of a card.

    Attributes:
        sm_mhz: Clock of the multiprocessors.
        memory_mhz: Clock of the memory.
        celsius: Of the chip.
        watts: Mean of about the last second.
        slowdowns: Why it computes slower than it could, by the words of SLOWDOWNS.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    slowdowns: tuple[str, ...]


class Gpu:
    """The card that CUDA calls its first, through NVML."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def read(self) -> GpuReading:
        """The card as it is now."""
        nvml = self._library
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage)
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return GpuReading(
            sm_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            celsius=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            watts=None if milliwatts is None else milliwatts / 1e3,
            slowdowns=tuple(word for bit, word in SLOWDOWNS.items() if reasons & bit),
        )

    def joules(self) -> float | None:
        """What it has taken since the driver was loaded."""
        found = self._ask(self._library.nvmlDeviceGetTotalEnergyConsumption)
        return None if found is None else found / 1e3

    def used_bytes(self) -> int | None:
        """Memory that is taken, by every process together."""
        found = self._ask(self._library.nvmlDeviceGetMemoryInfo)
        return None if found is None else int(found.used)

    def described(self) -> dict[str, Any]:
        """Name, driver, clocks at most and the power limit."""
        nvml = self._library
        limit = self._ask(nvml.nvmlDeviceGetPowerManagementLimit)
        return {
            "name": self._ask(nvml.nvmlDeviceGetName),
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "max_sm_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
            "max_memory_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_MEM),
            "power_limit_watts": None if limit is None else limit / 1e3,
        }

    def _ask(self, question: Callable[..., _Value], *args: Any) -> _Value | None:
        try:
            return question(self._handle, *args)
        except self._library.NVMLError:
            return None


@functools.cache
def gpu() -> Gpu | None:
    """The first card that this process may use; None without a card, its driver or `nvidia-ml-py`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or not is_installed("pynvml"):
        return None
    nvml: Any = require("pynvml", extra="gpu")
    try:
        nvml.nvmlInit()
        return Gpu(nvml, _handle(nvml, (visible or "0").split(",")[0].strip()))
    except nvml.NVMLError:
        return None


def _handle(nvml: Any, name: str) -> Any:
    """A card by its number or by its UUID, as CUDA_VISIBLE_DEVICES names it."""
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)
