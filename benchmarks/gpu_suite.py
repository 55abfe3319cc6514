"""Everything that lissom can do on a GPU, measured on the card that is at hand.

    python benchmarks/gpu_suite.py                        everything, resuming what was done before
    python benchmarks/gpu_suite.py --seconds 500          stop starting rows after 500 seconds
    python benchmarks/gpu_suite.py --models resnet-50 --batches 1 32 --engines 'inductor float16'
    python benchmarks/gpu_suite.py --list                 the rows that would be measured
    python benchmarks/gpu_suite.py --tiny --device cpu    a smoke test of the suite itself

Needs torch; a row whose library is missing says so. No network is used. Libraries may lie as wheels in
`.whl/`. Writes benchmarks/results/gpu_<card>_<date>.{json,md} after every row. All models are measured at the
first batch before any at the second, and engines that take long to prepare come last.

Rows are measured in a process of their own. When it dies or hangs, the row that it was at has failed, and
another process goes on.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

from gpu.catalog import ENGINES, MODELS, OURS, Key, ours_of  # noqa: E402
from gpu.libraries import missing, unpack_wheels  # noqa: E402

USAGE, POISONED = 2, 3
"""Exit codes: a wrong request, and a device that has to be opened anew."""
MAX_PROCESSES = 50


def main() -> int:
    parser = arguments()
    given = parser.parse_args()
    given.batches = given.batches or ([1, 2] if given.tiny else [1, 8, 32, 128, 256])
    if given.list:
        for model, engine, batch in wanted(given):
            print(f"{model} · {engine} · batch {batch}")
        return 0
    unpack_wheels(ROOT / ".whl")
    if library := missing(["torch", "numpy"]):
        parser.error(f"{library} is not installed")
    return measure(parser, given) if given.marker else supervise(given)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = [*MODELS, OURS]
    told = {
        name: f"some of: {', '.join(names)}" for name, names in (("models", models), ("engines", ENGINES))
    }
    parser.add_argument(
        "--models", nargs="+", choices=models, default=models, metavar="NAME", help=told["models"]
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=list(ENGINES),
        default=list(ENGINES),
        metavar="NAME",
        help=told["engines"],
    )
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="default: 1 8 32 128 256")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), metavar="S", help="start no rows after that"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="figures of each row (default: 10)"
    )
    parser.add_argument(
        "--row-seconds", type=float, default=600, metavar="S", help="a row that takes longer has failed"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, two rounds")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="show the rows and measure nothing")
    for hidden, kind in (("--marker", Path), ("--run", str), ("--deadline", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser


def wanted(given: argparse.Namespace) -> list[Key]:
    """Every row by model, engine and batch, in the order in which they are measured."""
    keys: list[Key] = []
    for batch in given.batches:
        for model in given.models:
            stock = [(model, engine, batch) for engine in given.engines]
            keys += ours_of(batch) if model == OURS else stock
    return keys


def supervise(given: argparse.Namespace) -> int:
    """Measure in processes of their own until one comes to its end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "now.json"
        hidden = ["--marker", str(marker), "--run", str(time.time_ns())]
        hidden += ["--deadline", str(time.time() + given.seconds)]
        command = [sys.executable, __file__, *sys.argv[1:], *hidden]
        for _ in range(MAX_PROCESSES):
            ended = watched(command, marker, given.row_seconds)
            if ended in (0, USAGE):
                return int(ended)
            if ended == POISONED:
                continue
            if not marker.exists():
                print(f"the suite ended before its first row: {ended}", file=sys.stderr)
                return 1
            found = json.loads(marker.read_text()) | {"ended": f"the process ended: {ended}"}
            with deaths_beside(marker).open("a") as file:
                file.write(json.dumps(found) + "\n")
            marker.unlink()
    print(f"{MAX_PROCESSES} processes died; run it again to go on", file=sys.stderr)
    return 1


def deaths_beside(marker: Path) -> Path:
    """One line for every process that died, with the row that it was at."""
    return marker.with_name("deaths.jsonl")


def watched(command: list[str], marker: Path, row_seconds: float) -> int | str:
    """The exit code of a process, or in words why it is no more."""
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                code = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if marker.exists() and time.time() - marker.stat().st_mtime > row_seconds:
                    return f"it took more than {row_seconds:.0f} s"
                continue
            if code < 0:
                return signal.Signals(-code).name
            return code if code in (0, USAGE, POISONED) else f"exit code {code}"
    finally:
        process.kill()
        process.wait()


def measure(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Settle open rows, a model and batch at a time."""
    import torch
    from gpu.engines import allow_tf32

    from gpu import book as books
    from gpu import measuring_ours, measuring_stock

    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --tiny --device cpu tries the suite without one")
    allow_tf32(False)
    keys = wanted(given)
    book = books.opened(given.out, keys, given.marker, device=given.device, tiny=given.tiny)
    book.settle_deaths(given.run, deaths_beside(given.marker))
    try:
        for batch in given.batches:
            for model in given.models:
                if model == OURS:
                    measuring_ours.measure(book, batch, given, ROOT / "runs")
                else:
                    measuring_stock.measure(book, model, batch, given)
    except measuring_stock.Poisoned:
        given.marker.unlink(missing_ok=True)
        return POISONED
    if left := sum(book.is_open(key) for key in keys):
        print(f"{left} rows are left; run it again to go on", file=sys.stderr)
    print(book.path.with_name(book.path.name + ".md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
