"""What this card can do at most: matrix products by type, and copies."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from gpu.catalog import reason_of
from gpu.engines import allow_tf32
from gpu.timing import seconds_of


def ceilings(device: str, *, tiny: bool) -> dict[str, Any]:
    """FLOP/s of a large product in each type, and bytes/s read and written by a copy; None where refused."""
    size = 256 if tiny else 8192
    found: dict[str, Any] = {"matmul_size": size, "flops": {}, "bytes_per_s": _copy(device, tiny=tiny)}
    for name, product in _PRODUCTS.items():
        if name in ("tf32", "fp8", "float16") and device == "cpu":
            continue
        try:
            call = product(size, device)
            seconds = statistics.median(seconds_of(call, device, 5) for _ in range(3 if tiny else 7))
            found["flops"][name] = 2 * size**3 / seconds
        except Exception as exc:  # a card without the type says so in its own way
            found["flops"][name] = None
            found.setdefault("refused", {})[name] = reason_of(exc)
    return found


def _copy(device: str, *, tiny: bool) -> float:
    """Bytes read and written; 1 GiB does not fit into any cache."""
    source = torch.empty((1 << 20) if tiny else (1 << 28), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds = min(seconds_of(lambda: target.copy_(source), device, 5) for _ in range(3))
    return 2 * source.numel() * 4 / seconds


def _plain(kind: torch.dtype) -> Callable[[int, str], Callable[[], Any]]:
    def product(size: int, device: str) -> Callable[[], Any]:
        left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        return lambda: left @ right

    return product


def _tf32(size: int, device: str) -> Callable[[], Any]:
    multiply = _plain(torch.float32)(size, device)

    def call() -> None:
        allow_tf32(True)
        multiply()
        allow_tf32(False)

    return call


def _int8(size: int, device: str) -> Callable[[], Any]:
    left, right = (torch.randint(-9, 9, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    return lambda: torch._int_mm(left, right.t())  # as weights of a Linear layer lie, which is the fast way


def _fp8(size: int, device: str) -> Callable[[], Any]:
    left = torch.randn(size, size, device=device).to(torch.float8_e4m3fn)
    right = torch.randn(size, size, device=device).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


_PRODUCTS: dict[str, Callable[[int, str], Callable[[], Any]]] = {
    "float32": _plain(torch.float32),
    "tf32": _tf32,
    "bfloat16": _plain(torch.bfloat16),
    "float16": _plain(torch.float16),
    "int8": _int8,
    "fp8": _fp8,
}
