"""Everything that lissom can do on a GPU, measured on the card that is at hand.

    python benchmarks/gpu_suite.py                        everything, resuming what was done before
    python benchmarks/gpu_suite.py --seconds 500          stop starting rows after 500 seconds
    python benchmarks/gpu_suite.py --models resnet-50 --batches 1 32 --engines 'inductor float16'
    python benchmarks/gpu_suite.py --list                 the rows that would be measured
    python benchmarks/gpu_suite.py --tiny --device cpu    a smoke test of the suite itself

Needs torch, NumPy and transformers; a row whose library is missing says so. No network is used. Libraries may
lie as wheels in `.whl/`. Writes benchmarks/results/gpu_<card>_<date>.{json,md} after every model and batch.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent), *map(str, (ROOT / ".whl").glob("*.whl"))]

import torch  # noqa: E402
from gpu.ceilings import ceilings  # noqa: E402
from gpu.engines import BASELINE, ENGINES, Call, NotInstalled  # noqa: E402
from gpu.timing import calls_in, seconds_of  # noqa: E402

from gpu import ours, rendering, stock  # noqa: E402

Row = dict[str, Any]
OURS = "lissom"


def main() -> None:
    given = arguments()
    if given.list:
        for model, engine, batch in wanted(given):
            print(f"{model} · {engine} · batch {batch}")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    path = given.out / name_of(given)
    given.out.mkdir(parents=True, exist_ok=True)
    state = resumed(path, given)
    started = time.monotonic()
    groups = list(dict.fromkeys((model, batch) for model, _, batch in wanted(given)))
    for index, (model, batch) in enumerate(groups):
        elapsed = time.monotonic() - started
        left = elapsed / index * (len(groups) - index) if index else float("nan")
        print(f"[{index}/{len(groups)}] {model}, batch {batch}; about {left:.0f} s left", file=sys.stderr)
        if elapsed > given.seconds:
            print(f"stopped after {elapsed:.0f} s; run it again to go on", file=sys.stderr)
            break
        state["rows"] = merged(state["rows"], measured(model, batch, state["rows"], given))
        rendering.write(state, path)
    print(path.with_suffix(".md"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*stock.SIZES, OURS], default=[*stock.SIZES, OURS])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--batches", nargs="+", type=int, default=None, help="default: 1 8 32 128 256")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no rows after that")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, two rounds")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--list", action="store_true", help="show the rows and measure nothing")
    given = parser.parse_args()
    given.batches = given.batches or ([1, 2] if given.tiny else [1, 8, 32, 128, 256])
    if given.device == "cuda" and not given.list and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --tiny --device cpu tries the suite without one")
    return given


def wanted(given: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Every row by model, engine and batch."""
    return [
        (model, engine, batch)
        for model in given.models
        for batch in given.batches
        for engine in (["all runtimes"] if model == OURS else given.engines)
    ]


def name_of(given: argparse.Namespace) -> str:
    words = "".join(char if char.isalnum() else " " for char in card(given.device)).lower().split()
    tiny = "tiny-" if given.tiny else ""
    return f"gpu_{tiny}{'-'.join(words)}_{datetime.now(UTC).date().isoformat()}"


def card(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def resumed(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What was measured before on this day and card, or a new state."""
    if path.with_suffix(".json").exists():
        found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        return found
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(given.device),
        "ceilings": ceilings(given.device, tiny=given.tiny),
        "rows": [],
    }


def machine(device: str) -> dict[str, Any]:
    queried = ["driver_version", "clocks.sm", "clocks.mem", "power.limit"] if device == "cuda" else []
    found = ["none"] * 4
    if queried:
        command = ["nvidia-smi", f"--query-gpu={','.join(queried)}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        found = [word.strip() for word in said.splitlines()[0].split(",")] if said else found
    return {
        "card": card(device),
        "driver": found[0],
        "clocks": ", ".join(found[1:]),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def merged(before: list[Row], after: list[Row]) -> list[Row]:
    """Rows of a new measurement take the place of old ones."""
    new = {(row["model"], row["engine"], row["batch"]) for row in after}
    return [row for row in before if (row["model"], row["engine"], row["batch"]) not in new] + after


def measured(model: str, batch: int, before: list[Row], given: argparse.Namespace) -> list[Row]:
    """The rows of one model and batch; nothing where all of them were measured before."""
    done = {
        row["engine"]
        for row in before
        if row["batch"] == batch and row["status"] == "measured" and row["model"].startswith(model)
    }
    if model == OURS:
        if done:
            return []
        folder = ROOT / "runs" / ("gpu-tiny" if given.tiny else "gpu")
        return ours.rows_of(folder, given.device, [batch], tiny=given.tiny)
    missing = [name for name in given.engines if name not in done]
    if not missing:
        return []
    return stock_rows(model, batch, [BASELINE, *(name for name in missing if name != BASELINE)], given)


def stock_rows(model: str, batch: int, engines: list[str], given: argparse.Namespace) -> list[Row]:
    try:
        built = stock.build(model, tiny=given.tiny)
    except ImportError as exc:
        return [said(model, name, batch, "not installed", str(exc)) for name in engines]
    samples = stock.inputs_of(model, batch, tiny=given.tiny).to(given.device)
    rows: dict[str, Row] = {}
    calls: dict[str, Call] = {}
    for name in engines:
        rows[name] = said(model, name, batch, "measured", "")
        try:
            calls[name] = ready(name, built, samples, given.device, rows[name])
        except NotInstalled as exc:
            rows[name] = said(model, name, batch, "not installed", str(exc))
        except Exception as exc:  # what an engine raises is the finding
            reason = f"{type(exc).__name__}: {(str(exc) or 'no message').splitlines()[0][:300]}"
            rows[name] = said(model, name, batch, "failed", reason)
    compared(calls, rows)
    timed(calls, rows, given)
    work(built, samples, rows)
    calls.clear()
    release(given.device)
    return list(rows.values())


def ready(name: str, model: Any, samples: torch.Tensor, device: str, row: Row) -> Call:
    """The call of an engine after two that are not counted, with the memory that they took."""
    engine = ENGINES[name]
    if engine.cuda and device == "cpu":
        raise NotInstalled("a GPU")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    with torch.inference_mode():
        call = engine.make(model, samples)
        call(), call()
    if device == "cuda":
        torch.cuda.synchronize()
        row["peak_bytes"] = torch.cuda.max_memory_allocated() - held
    row["precision"] = engine.precision
    return call


def compared(calls: dict[str, Call], rows: dict[str, Row]) -> None:
    """Each engine's answer against eager float32's."""
    if BASELINE not in calls:
        return
    with torch.inference_mode():
        trusted = calls[BASELINE]().float().cpu()
        for name, call in calls.items():
            if name == BASELINE or not ENGINES[name].parity:
                continue
            found = call().float().cpu()
            noise = (found - trusted).double()
            signal, power = trusted.double().square().sum(), noise.square().sum()
            same = (found.argmax(-1) == trusted.argmax(-1)).double().mean()
            cosine = torch.nn.functional.cosine_similarity(found.flatten(), trusted.flatten(), dim=0)
            rows[name] |= {
                "max_error": float(noise.abs().max()),
                "sqnr_db": float(10 * torch.log10(signal / power.clamp_min(1e-30))),
                "cosine": float(cosine),
                "agreement": float(same),
            }


def timed(calls: dict[str, Call], rows: dict[str, Row], given: argparse.Namespace) -> None:
    """Every engine once a round, in an order that turns."""
    num_rounds, seconds = (2, 0.01) if given.tiny else (12, 0.1)
    counts = {name: calls_in(call, given.device, seconds) for name, call in calls.items()}
    for name in calls:
        rows[name]["rounds_ms"] = []
    names = list(calls)
    for index in range(num_rounds):
        shift = index % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            spent = seconds_of(calls[name], given.device, counts[name])
            rows[name]["rounds_ms"].append([1e3 * spent])


def work(model: Any, samples: torch.Tensor, rows: dict[str, Row]) -> None:
    """Multiply-adds times two of one batch, and the bytes that must move at least."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        answer = model(samples.cpu())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for row in rows.values():
        if row["status"] == "measured":
            values = samples.numel() + answer.numel()
            row["flops"] = counter.get_total_flops()
            row["bytes"] = rendering.bytes_moved(parameters, values, row["precision"])


def release(device: str) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def said(model: str, engine: str, batch: int, status: str, reason: str) -> Row:
    return {"model": model, "engine": engine, "batch": batch, "status": status, "reason": reason}


if __name__ == "__main__":
    main()
