"""The rows of one card and day, in a JSON and a Markdown that are written whole after every row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpu import rendering
from gpu.catalog import Key, Row, key_of, row_of
from gpu.ceilings import ceilings


class Book:
    """What was measured, and how much is left.

    A process that dies leaves its `marker` behind, a file that names the row that it was at.
    """

    def __init__(self, path: Path, state: dict[str, Any], wanted: Collection[Key], marker: Path) -> None:
        self.path, self.state, self.marker = path, state, marker
        self._wanted = wanted
        self.died: set[Key] = set()
        """Rows that ended a process, which are not tried again even as the baseline of others."""
        self._settled: set[Key] = set()
        self._started = time.monotonic()
        self._num_new = 0

    def settle(self, row: Row) -> None:
        """Write a row; it takes the place of an older one."""
        key = key_of(row)
        rows = [other for other in self.state["rows"] if key_of(other) != key]
        self.state["rows"] = [*rows, row]
        self._settled.add(key)
        self._num_new += 1
        self.write()
        self._progress(key, row)

    def is_open(self, key: Key) -> bool:
        """True when a row is neither measured nor was tried in this run."""
        return key not in self._settled and (self.row(key) or {}).get("status") != "measured"

    def row(self, key: Key) -> Row | None:
        """The row as it was written last."""
        return next((row for row in self.state["rows"] if key_of(row) == key), None)

    def now_at(self, key: Key) -> None:
        """Leave word of what is tried now."""
        self.marker.write_text(json.dumps({"key": key}))

    def settle_deaths(self, run: str, deaths: Path) -> None:
        """Make failed rows of those at which the processes before this one died; see `supervise`."""
        self._settled.update(key_of(row) for row in self.state["rows"] if row.get("run") == run)
        for line in deaths.read_text().splitlines() if deaths.exists() else ():
            found = json.loads(line)
            model, engine, batch = found["key"]
            key = (model, engine, batch)
            self.died.add(key)
            if self.is_open(key):
                self.settle(row_of(key, "failed", found["ended"], run=run))

    def write(self) -> None:
        """Both files, each whole or not at all, with rows in the order in which they are measured."""
        order = {key: index for index, key in enumerate(self._wanted)}
        self.state["rows"].sort(key=lambda row: order.get(key_of(row), len(order)))
        page = "\n".join(rendering.page(self.state)) + "\n"
        for suffix, text in ((".json", json.dumps(self.state, indent=1) + "\n"), (".md", page)):
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path.with_name(self.path.name + suffix))

    def _progress(self, key: Key, row: Row) -> None:
        num_open = sum(self.is_open(other) for other in self._wanted)
        left = (time.monotonic() - self._started) / self._num_new * num_open
        done = f"[{len(self._wanted) - num_open}/{len(self._wanted)}]"
        what = f"{row['latency_ms']['value']:.3f} ms" if "latency_ms" in row else row["reason"]
        print(
            f"{done} {key[0]} · {key[1]} · batch {key[2]}: {row['status']}: {what}; about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def opened(folder: Path, wanted: Collection[Key], marker: Path, *, device: str, tiny: bool) -> Book:
    """The book of this card and day; another driver, CUDA or torch begins a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    here = machine(device)
    number = 1
    while True:
        path = folder / (name_of(here["card"], tiny=tiny) + (f"_{number}" if number > 1 else ""))
        file = path.with_name(path.name + ".json")
        if not file.exists():
            break
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if all(state["machine"][name] == here[name] for name in ("driver", "cuda", "torch")):
            return Book(path, state, wanted, marker)
        number += 1
    print(f"measuring the ceilings of {here['card']}", file=sys.stderr, flush=True)
    state = {
        "schema": "lissom.benchmark/1",
        "suite": "gpu",
        "created": today(),
        "machine": here,
        "ceilings": ceilings(device, tiny=tiny),
        "rows": [],
    }
    book = Book(path, state, wanted, marker)
    book.write()
    return book


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def name_of(card: str, *, tiny: bool) -> str:
    """The files' name without a suffix."""
    words = "".join(char if char.isalnum() else " " for char in card).lower().split()
    return f"gpu_{'tiny-' if tiny else ''}{'-'.join(words)}_{today()}"


def machine(device: str) -> dict[str, Any]:
    """Card, driver and versions."""
    found = ["none"] * 4
    if device == "cuda":
        found = _nvidia_smi("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit")
    return {
        "card": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "driver": found[0],
        "clocks": ", ".join(found[1:]),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _nvidia_smi(*names: str) -> list[str]:
    """What the driver says of the first card; `unknown` where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ["unknown"] * len(names)
    return [word.strip() for word in said.splitlines()[0].split(",")]
