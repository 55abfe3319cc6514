"""Whether lissom answers as Triton does: the same requests to both, and the calls of Triton's own client.

    python benchmarks/conformance.py [--wheel FILE] [--only requests client]

    requests  every case of tests/integration/serving/answers.json, over a socket of its own
    client    the calls of `tritonclient.http`

Triton is the server 2.51 that `nvidia-pytriton` 0.7.0 brings (Linux, Python 3.11 or 3.12, no GPU): it is
installed into an environment of its own in a temporary folder, and started without PyTriton, with models that
compute what those of lissom do. A server that dies is started anew, and what ended or stalled it is counted
and otherwise left out: such a case must leave the table too, and the benchmark ends with 1. So it does where
lissom answers other than the table says.

Writes benchmarks/results/conformance_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

from lissom.bench.environment import environment
from lissom.runtime.machine import host
from lissom.serve.keys import add_key

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.serving.cases import exchange, read_cases, request_of, statuses  # noqa: E402
from tests.integration.test_serving import serving  # noqa: E402
from tests.unit.artifacts import BIAS, WEIGHTS, identity_onnx_artifact, tiny_onnx_artifact  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
REQUIREMENTS = ("nvidia-pytriton==0.7.0", "numpy<2")
SECONDS = 10.0
"""After which a connection that says nothing counts as hanging."""
START_SECONDS = 60.0
ENDS = ("dies", "hangs")
Status = int | str | None
Call = Callable[[Any, dict[str, str]], Any]

LINEAR = f"""
import numpy as np
import triton_python_backend_utils as pb_utils

WEIGHTS = np.array({WEIGHTS.tolist()}, dtype=np.float32)
BIAS = np.array({BIAS.tolist()}, dtype=np.float32)


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        logits = image.reshape(len(image), -1) @ WEIGHTS + BIAS
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", logits)])
"""
IDENTITY = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        wanted = request.requested_output_names()
        given = {f"{n}_again": pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in ("x", "y")}
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, given[n]) for n in given if n in wanted])
"""
LINEAR_CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "image" data_type: TYPE_FP32 dims: [1, 2, 2] }]
output [{ name: "logits" data_type: TYPE_FP32 dims: [3] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { }
"""
IDENTITY_CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_INT32 dims: [-1, 2] }, { name: "y" data_type: TYPE_INT32 dims: [-1] }]
output [
  { name: "x_again" data_type: TYPE_INT32 dims: [-1, 2] },
  { name: "y_again" data_type: TYPE_INT32 dims: [-1] }
]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODELS = {
    "tiny": (LINEAR, LINEAR_CONFIG),
    "spare": (LINEAR, LINEAR_CONFIG),
    "identity_int32": (IDENTITY, IDENTITY_CONFIG),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--wheel", type=Path, help="of nvidia-pytriton, where it was fetched before")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conformance-") as place:
        folder = Path(place)
        control = Control(folder / "triton", given.wheel)
        with lissom_server(folder / "lissom") as (port, keys), control:
            about = control.about()
            found = {name: PARTS[name](control, port, keys) for name in given.only}
    write(found, about)
    rows = found.get("requests", ())
    return int(
        any(not row["lissom"]["expected"] or row.get("triton", {}).get("found") in ENDS for row in rows)
    )


class Control:
    """A real Triton, in an environment of its own; a context manager that starts it anew when it died."""

    def __init__(self, folder: Path, wheel: Path | None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self._packages = installed(folder / "venv", wheel)
        self._backends = backends(self._packages, folder / "backends")
        for name, (code, config) in MODELS.items():
            (folder / "models" / name / "1").mkdir(parents=True)
            (folder / "models" / name / "1" / "model.py").write_text(textwrap.dedent(code))
            (folder / "models" / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Control:
        self.start()
        return self

    def __exit__(self, *about: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        libraries = [str(sysconfig.get_config_var("LIBDIR")), str(self._packages / "nvidia_pytriton.libs")]
        variables = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(libraries),
            # Python within the backend takes the packages of the `python3` that it finds.
            "PATH": f"{self._packages.parents[2] / 'bin'}:{os.environ['PATH']}",
        }
        words = [
            str(self._packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={self._backends}",
            *("--model-control-mode=explicit", "--load-model=*", "--http-address=127.0.0.1"),
            *(f"--http-port={self.port}", "--allow-grpc=false", "--allow-metrics=false"),
        ]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not says_yes(self.port, "ready"):
            if not self.lives() or time.monotonic() > deadline:
                raise SystemExit(f"Triton did not start:\n{(self.folder / 'log.txt').read_text()[-3000:]}")
            time.sleep(0.1)

    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def revived(self) -> bool:
        """True when the server had died, or fallen silent, and was started anew."""
        if self.lives() and says_yes(self.port, "live"):
            return False
        self.__exit__()
        self.start()
        return True

    def about(self) -> dict[str, Any]:
        """Name and version as the server gives them."""
        with triton.InferenceServerClient(f"127.0.0.1:{self.port}") as client:
            found: dict[str, Any] = client.get_server_metadata()
        return {"name": found["name"], "version": found["version"], "from": REQUIREMENTS[0]}


def installed(folder: Path, wheel: Path | None) -> Path:
    """The packages of a new environment that holds the server."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    what = (str(wheel) if wheel else REQUIREMENTS[0], *REQUIREMENTS[1:])
    subprocess.run([*pip, *what], check=True)  # without what PyTriton needs, for the server needs nothing
    return next((folder / "lib").glob("python3.*")) / "site-packages"


def backends(packages: Path, folder: Path) -> Path:
    """The backend for models in Python, beside the part that is of this Python's version."""
    source = packages / "pytriton" / "tritonserver"
    shutil.copytree(source / "backends", folder)
    name = f"{sys.version_info.major}.{sys.version_info.minor}"
    for file in (source / "python_backend_stubs" / name).iterdir():
        shutil.copy2(file, folder / "python")
        (folder / "python" / file.name).chmod(0o755)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def says_yes(port: int, health: str) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.request("GET", f"/v2/health/{health}")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def lissom_server(folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Port and keys of `lissom serve` with the same models."""
    folder.mkdir(parents=True)
    models = [
        *(tiny_onnx_artifact(folder / name, recipe=name) for name in ("tiny", "spare")),
        identity_onnx_artifact(folder / "integers", "int32"),
    ]
    file = folder / "keys"
    keys = {"user": add_key(file, "user"), "admin": add_key(file, "root", is_admin=True), "wrong": "nonsense"}
    with serving(folder, *(model.path for model in models), keys=str(file)) as server:
        yield server.port, keys


def requests(control: Control, port: int, keys: dict[str, str]) -> list[dict[str, Any]]:
    """Every case, to both."""
    found = []
    for case in read_cases():
        row: dict[str, Any] = {"name": case["name"], "why": case.get("why", "")}
        row["lissom"] = judged(status_of(case, port, keys), case["lissom"])
        if "triton" in case:
            row["triton"] = judged(status_of(case, control.port, {}), case["triton"])
            if control.revived():
                row["triton"] = judged("dies", case["triton"])
        if row.get("triton", {}).get("found") in ENDS:
            print(
                f"{case['name']}: Triton {row['triton']['found']}; take it out of the table", file=sys.stderr
            )
            row = {"name": "left out", "why": "", **{name: row[name] for name in ("lissom", "triton")}}
        found.append(row)
    return found


def status_of(case: Mapping[str, Any], port: int, keys: Mapping[str, str]) -> Status:
    try:
        head = case.get("method") == "HEAD"
        answers = exchange(port, request_of(case, keys), head=head, seconds=SECONDS, most=1)
    except TimeoutError:
        return "hangs"
    except OSError:
        return "dies"
    return answers[0].status if answers else None


def judged(found: Status, expected: Any) -> dict[str, Any]:
    return {"found": found, "expected": found in statuses(expected), "told": expected}


def client(control: Control, port: int, keys: dict[str, str]) -> list[dict[str, Any]]:
    """Every call of the client, to both."""
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    found = []
    for name, call in CALLS.items():
        row = {
            "name": name,
            "lissom": outcome(call, port, headers),
            "triton": outcome(call, control.port, {}),
        }
        if control.revived():
            row["triton"] = "the server dies"
        found.append(row)
    return found


def outcome(call: Call, port: int, headers: dict[str, str]) -> str:
    """`passes`, or what the client raised."""
    with triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=SECONDS) as one:
        try:
            call(one, dict(headers))  # the client adds its own to them
        except Exception as exc:  # whatever a client raises is the finding
            return " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
    return "passes"


def image(binary: bool = True) -> list[Any]:
    found = triton.InferInput("image", [2, 1, 2, 2], "FP32")
    found.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2), binary_data=binary)
    return [found]


def pair() -> list[Any]:
    x, y = triton.InferInput("x", [2, 2], "INT32"), triton.InferInput("y", [2], "INT32")
    x.set_data_from_numpy(np.arange(4, dtype=np.int32).reshape(2, 2))
    y.set_data_from_numpy(np.arange(2, dtype=np.int32), binary_data=False)
    return [x, y]


def check_logits(found: Any) -> None:
    tensor = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(found.as_numpy("logits"), tensor @ WEIGHTS + BIAS, rtol=1e-4)


def mixed(one: Any, headers: dict[str, str]) -> None:
    wanted = [
        triton.InferRequestedOutput("y_again", binary_data=False),
        triton.InferRequestedOutput("x_again", binary_data=True),
    ]
    found = one.infer("identity_int32", pair(), outputs=wanted, headers=headers)
    np.testing.assert_array_equal(found.as_numpy("x_again"), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(found.as_numpy("y_again"), [0, 1])


def inferring(binary: bool = True, **options: Any) -> Call:
    def call(one: Any, headers: dict[str, str]) -> None:
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
        check_logits(one.infer("tiny", image(binary), outputs=wanted, headers=headers, **options))

    return call


def packed(packing: str) -> Call:
    return inferring(request_compression_algorithm=packing, response_compression_algorithm=packing)


def true(method: str, *words: str) -> Call:
    def call(one: Any, headers: dict[str, str]) -> None:
        assert getattr(one, method)(*words, headers=headers)

    return call


def called(method: str, *words: str) -> Call:
    return lambda one, headers: getattr(one, method)(*words, headers=headers)


CALLS: dict[str, Call] = {
    "is_server_live": true("is_server_live"),
    "is_server_ready": true("is_server_ready"),
    "is_model_ready": true("is_model_ready", "tiny"),
    "is_model_ready, version": true("is_model_ready", "tiny", "1"),
    "get_server_metadata": true("get_server_metadata"),
    "get_model_metadata": true("get_model_metadata", "tiny"),
    "get_model_metadata, version": true("get_model_metadata", "tiny", "1"),
    "get_model_config": true("get_model_config", "tiny"),
    "get_model_config, version": true("get_model_config", "tiny", "1"),
    "get_model_repository_index": true("get_model_repository_index"),
    "get_inference_statistics": true("get_inference_statistics"),
    "get_inference_statistics, model": true("get_inference_statistics", "tiny"),
    "get_inference_statistics, version": true("get_inference_statistics", "tiny", "1"),
    "infer, binary": lambda one, headers: check_logits(one.infer("tiny", image(), headers=headers)),
    "infer, binary output named": inferring(),
    "infer, JSON": inferring(binary=False),
    "infer, version, id, priority, timeout": inferring(
        model_version="1", request_id="7", priority=1, timeout=10_000_000
    ),
    "infer, gzip": packed("gzip"),
    "infer, deflate": packed("deflate"),
    "infer, mixed outputs": mixed,
    "async_infer": lambda one, headers: check_logits(
        one.async_infer("tiny", image(), headers=headers).get_result()
    ),
    "infer, classification": lambda one, headers: one.infer(
        "tiny", image(), outputs=[triton.InferRequestedOutput("logits", class_count=2)], headers=headers
    ),
    "unload_model": called("unload_model", "spare"),
    "load_model": called("load_model", "spare"),
    "is_model_ready, loaded again": true("is_model_ready", "spare"),
    "get_trace_settings": called("get_trace_settings"),
    "get_log_settings": called("get_log_settings"),
    "get_system_shared_memory_status": called("get_system_shared_memory_status"),
    "get_cuda_shared_memory_status": called("get_cuda_shared_memory_status"),
}
PARTS: dict[str, Callable[[Control, int, dict[str, str]], list[dict[str, Any]]]] = {
    "requests": requests,
    "client": client,
}


def write(found: dict[str, Any], about: dict[str, Any]) -> None:
    state, today = environment(), datetime.now(UTC).date().isoformat()
    path = RESULTS / f"conformance_{host().lower()}_{today}"
    file = path.with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}  # parts that were measured today
    found = {name: {**before, **found}[name] for name in PARTS if name in {**before, **found}}
    file.write_text(json.dumps({"environment": state, "control": about, **found}, indent=1) + "\n")
    control = f"{about['name'].capitalize()} {about['version']}"
    lines = [
        "# The answers of lissom beside those of Triton",
        "",
        f"{control} of `{about['from']}`, on the same machine ({state['cpu']}, {state['cores']} cores), "
        f"{today}. Each request goes to both over a connection of its own.",
    ]
    if "requests" in found:
        lines += request_lines(found["requests"], control)
    if "client" in found:
        lines += client_lines(found["client"], control)
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def request_lines(rows: list[dict[str, Any]], control: str) -> list[str]:
    both = [row for row in rows if "triton" in row and row["triton"]["found"] not in ENDS]
    other = [row for row in both if row["lissom"]["found"] != row["triton"]["found"]]
    wrong = [row for row in rows if not all(row[k]["expected"] for k in ("lissom", "triton") if k in row)]
    right = sum(row["lissom"]["expected"] for row in rows)
    ended = {
        name: sum(row.get(name, {}).get("found") in ENDS for row in rows) for name in ("lissom", "triton")
    }
    return [
        "",
        f"{len(rows)} requests, {len(both)} of them to both: the same status in {len(both) - len(other)}, "
        f"the others are below. lissom answered {right} as the table of its tests says. {ended['lissom']} "
        f"made lissom hang or end, {ended['triton']} Triton.",
        "",
        f"| request | lissom | {control} | why |",
        "|---|---|---|---|",
        *(
            f"| {row['name']} | {shown(row['lissom'])} | {shown(row['triton'])} | {row['why']} |"
            for row in other
        ),
        *(["", "Not as the table says:", ""] if wrong else []),
        *(
            f"- {row['name']}: "
            + ", ".join(
                f"{k} {shown(row[k])} in place of {row[k]['told']}"
                for k in ("lissom", "triton")
                if k in row and not row[k]["expected"]
            )
            for row in wrong
        ),
    ]


def client_lines(rows: list[dict[str, Any]], control: str) -> list[str]:
    return [
        "",
        f"| call of the client | lissom | {control} |",
        "|---|---|---|",
        *(f"| {row['name']} | {row['lissom']} | {row['triton']} |" for row in rows),
    ]


def shown(one: Mapping[str, Any]) -> str:
    found = one["found"]
    if isinstance(found, list) and len(set(found)) == 1:
        return f"{len(found)} times {found[0]}"
    return "closed" if found is None else str(found)


if __name__ == "__main__":
    sys.exit(main())
