"""`serve` for real: a launcher, BentoML's supervisor, a worker, a socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from tests.unit.artifacts import LABELS, tiny_logits, tiny_onnx_artifact

from lissom.runtime.scores import softmax
from lissom.serve.bodies import MAX_BODY_BYTES
from lissom.serve.keys import add_key

WORKER = "_bentoml_impl.worker.service"
ROWS = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
BODY = json.dumps({"inputs": {"image": ROWS.tolist()}}).encode()
LAUNCHER = """
import json, sys
from lissom.errors import LissomError
from lissom.serve.launch import serve

def ready(url):
    print("ready", url, flush=True)

def show(line):
    print(line, file=sys.stderr, flush=True)

try:
    sys.exit(serve(on_ready=ready, on_log=show, **json.loads(sys.argv[1])))
except LissomError as exc:
    print(type(exc).__name__, exc.message, flush=True)
    sys.exit(exc.exit_code)
"""


class Server(NamedTuple):
    """A launcher that runs, and where its server is."""

    process: subprocess.Popen[str]
    port: int

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()

    def family(self) -> list[psutil.Process]:
        """The launcher, the supervisor and the worker."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


def launch(folder: Path, *artifacts: Path, variables: dict[str, str] | None = None, **options: Any) -> Any:
    """Start a launcher in `folder`; its temporary files are below it too."""
    arguments = {"artifacts": [str(path) for path in artifacts], "port": 0, "threads": 1, **options}
    (folder / "tmp").mkdir(exist_ok=True)
    search = os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part and Path(part).is_dir())
    environment = {**os.environ, "PYTHONPATH": search, "TMPDIR": str(folder / "tmp"), **(variables or {})}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(folder / "log.txt").open("w"),
        text=True,
    )


@contextlib.contextmanager
def serving(folder: Path, *artifacts: Path, **options: Any) -> Iterator[Server]:
    """A server that is ready; whatever is left of it at the end is killed."""
    process = launch(folder, *artifacts, **options)
    family: list[psutil.Process] = []
    try:
        line = process.stdout.readline()
        assert line.startswith("ready http://127.0.0.1:"), line + (folder / "log.txt").read_text()
        server = Server(process, int(line.rpartition(":")[2]))
        family = server.family()
        yield server
        process.terminate()
        process.wait(60)
    finally:
        for member in [psutil.Process(process.pid)] if process.poll() is None else family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        process.stdout.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serving")
    artifacts = [tiny_onnx_artifact(folder / name, recipe=name).path for name in ("tiny", "second")]
    with serving(folder, *artifacts) as server:
        yield server


def test_predict_answers_as_the_model_does(server: Server) -> None:
    status, body = server.request("POST", "/predict/tiny", BODY)
    found, logits = json.loads(body), tiny_logits(ROWS)
    assert status == 200
    assert found["labels"] == [LABELS[index] for index in logits.argmax(axis=1)]
    np.testing.assert_allclose(found["scores"], softmax(logits), rtol=1e-5)


def test_a_stock_client_of_the_protocol_is_answered(server: Server) -> None:
    client_library = pytest.importorskip("tritonclient.http")
    client = client_library.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "lissom"
    assert client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 1, 2, 2]
    image = client_library.InferInput("image", [2, 1, 2, 2], "FP32")
    image.set_data_from_numpy((ROWS - 2) / 4, binary_data=False)
    logits = client_library.InferRequestedOutput("logits", binary_data=False)
    found = client.infer("tiny", [image], outputs=[logits], request_id="7")
    assert found.get_response()["id"] == "7"
    np.testing.assert_allclose(found.as_numpy("logits"), tiny_logits(ROWS), rtol=1e-5, atol=1e-5)
    image.set_data_from_numpy((ROWS - 2) / 4, binary_data=True)
    for packing in (None, "gzip", "deflate"):
        found = client.infer(
            "tiny", [image], request_compression_algorithm=packing, response_compression_algorithm=packing
        )
        np.testing.assert_allclose(found.as_numpy("logits"), tiny_logits(ROWS), rtol=1e-5, atol=1e-5)
    assert {model["name"] for model in client.get_model_repository_index()} == {"tiny", "second"}
    assert client.get_model_config("tiny")["input"][0]["dims"] == [1, 2, 2]
    told = client.get_inference_statistics("tiny")["model_stats"][0]["inference_stats"]
    assert told["success"]["count"] >= 4
    with pytest.raises(client_library.InferenceServerException, match="key of an administrator"):
        client.unload_model("tiny")
    late = client.infer("tiny", [image], timeout=10_000_000)
    assert late.as_numpy("logits").shape == (2, 3)


def test_with_keys_the_server_answers_those_who_have_one(tmp_path: Path) -> None:
    client_library = pytest.importorskip("tritonclient.http")
    keys = tmp_path / "keys"
    user, admin = add_key(keys, "user"), add_key(keys, "root", is_admin=True)
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path, keys=str(keys)) as server:
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.request("POST", "/predict", BODY)[0] == 401
        assert server.request("GET", "/metrics")[0] == 401
        client = client_library.InferenceServerClient(f"127.0.0.1:{server.port}")
        headers = {"Authorization": f"Bearer {user}"}
        assert client.get_model_metadata("tiny", headers=headers)["name"] == "tiny"
        for key in (user, admin):
            headers = {"Authorization": f"Bearer {key}"}
            if key == user:
                with pytest.raises(client_library.InferenceServerException, match="administrator"):
                    client.load_model("tiny", headers=headers)
                continue
            client.load_model("tiny", headers=headers)
            client.unload_model("tiny", headers=headers)
            assert not client.is_model_ready("tiny", headers=headers)
            client.load_model("tiny", headers=headers)
            assert client.is_model_ready("tiny", headers=headers)


def test_a_server_on_a_link_serves_what_it_points_to_when_it_is_told_to_load(tmp_path: Path) -> None:
    keys, link = tmp_path / "keys", tmp_path / "artifact"
    headers = {"Authorization": f"Bearer {add_key(keys, 'root', is_admin=True)}"}
    old, new = (tiny_onnx_artifact(tmp_path / name, notes={"made": name}) for name in ("old", "new"))
    link.symlink_to("old")
    words = [Path("one=artifact"), Path(f"two={old.path}")]
    with serving(tmp_path, *words, keys=str(keys), keep_alive=0.6) as server:

        def post(path: str) -> Any:
            connection.request("POST", path, b"{}", headers)
            return json.loads(connection.getresponse().read())

        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        ) as connection:
            digests = {one["name"]: one["digest"] for one in post("/v2/repository/index")}
            assert digests == {"one": old.digest, "two": old.digest}
            link.unlink()
            link.symlink_to("new")
            found = post("/v2/repository/models/one/load")
            assert (found["digest"], found["previous"], found["changed"]) == (new.digest, old.digest, True)
            assert post("/v2/repository/models/one/load")["changed"] is False
            digests = {one["name"]: one["digest"] for one in post("/v2/repository/index")}
            assert digests == {"one": new.digest, "two": old.digest}
            log = (tmp_path / "log.txt").read_text()
            assert f"one, read from {new.path}: {new.digest[:12]} answers now" in log
            assert connection.sock is not None
            started = time.monotonic()
            assert connection.sock.recv(1) == b""  # closed by the server, once nothing was asked for so long
            assert 0.3 < time.monotonic() - started < 4.5


def test_bentoml_answers_its_own_paths_and_counts_nothing_of_ours(server: Server) -> None:
    for path in ("/v2", "/predict/tiny", "/nothing/here"):
        server.request("GET", path)
    assert server.request("GET", "/readyz")[0] == 200
    assert server.request("GET", "/livez")[0] == 200
    status, body = server.request("GET", "/metrics")
    assert status == 200
    endpoints = endpoints_of(body)
    assert "/readyz" in endpoints
    assert not endpoints & {"/v2", "/predict/tiny", "/nothing/here"}


def test_a_body_that_is_too_long_is_refused_and_the_server_lives(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /predict/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        answer = connection.makefile("rb").read()  # the server closes, or this would wait
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith(
        "the body has 99,999,999,999 bytes"
    )
    assert server.request("GET", "/v2/health/ready")[0] == 200


def test_who_sends_a_body_that_is_too_long_to_its_end_learns_why_it_is_refused(server: Server) -> None:
    status, answer = server.request("POST", "/predict/tiny", b"0" * (MAX_BODY_BYTES + 1))
    assert (status, b"bytes" in answer) == (413, True)


def test_the_same_port_is_refused_to_a_second_server(server: Server, tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    second = launch(tmp_path, artifact.path, port=server.port)
    out, _ = second.communicate(timeout=60)
    assert (second.returncode, out.split()[0]) == (2, "RequestError")
    assert f"port {server.port}" in out
    assert server.request("GET", "/v2/health/ready")[0] == 200


def test_two_servers_run_side_by_side_and_leave_nothing_behind(server: Server, tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path) as second:
        family = second.family()
        assert any(WORKER in member.cmdline() for member in family)
        assert second.request("POST", "/predict", BODY)[0] == 200
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(60) == 0
        assert not any(member.is_running() for member in family)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert server.request("POST", "/predict/second", BODY)[0] == 200
    assert server.request("GET", "/metrics")[0] == 200


def test_a_request_that_was_begun_is_finished_after_the_signal(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
            connection.sendall(head + BODY[:10])
            time.sleep(0.5)
            server.process.terminate()
            time.sleep(0.5)
            connection.sendall(BODY[10:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died"
)
def test_the_server_ends_when_its_launcher_is_killed(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path) as server:
        family = server.family()
        server.process.kill()
        until(lambda: not any(member.is_running() for member in family[1:]))
        assert not any(member.is_running() for member in family[1:])


def test_a_worker_that_is_killed_has_another_and_one_that_cannot_be_ends_the_server(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path) as server:
        kill_worker(server)
        until(lambda: server.request("POST", "/predict", BODY)[0] == 200)  # it waits for the other
        time.sleep(2.5)  # the launcher looks again and is content
        assert server.process.poll() is None
        family = server.family()
        (artifact.path / "payload" / "model.onnx").write_bytes(b"damaged")
        kill_worker(server)
        assert server.process.wait(60) == 2
        assert server.process.stdout is not None
        assert server.process.stdout.read().startswith("ArtifactError")
        until(lambda: not any(member.is_running() for member in family))


def kill_worker(server: Server) -> None:
    (worker,) = [member for member in server.family() if WORKER in member.cmdline()]
    worker.kill()
    worker.wait(30)


def test_answers_are_noted_and_measured(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    log = tmp_path / "access.jsonl"
    with serving(tmp_path, artifact.path, access_log="access.jsonl", max_batch=3) as server:
        assert server.request("POST", "/predict", BODY)[0] == 200
        assert server.request("GET", "/nothing")[0] == 404
        metrics = server.request("GET", "/metrics")[1].decode()
        config = json.loads(server.request("GET", "/v2/models/tiny/config")[1])
        assert server.request("GET", "/")[1].startswith(b"<!doctype html>")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["path"], line["status"]) for line in lines if "health" not in line["path"]]
    assert told[:2] == [("/predict", 200), ("/nothing", 404)]
    assert 'nv_inference_request_success{model="tiny",version="1"} 1' in metrics
    assert 'lissom_http_responses_total{route="predict",status="200"} 1' in metrics
    assert config["max_batch_size"] == 3


def test_with_the_fast_path_switched_off_bentoml_counts_our_paths(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    with serving(tmp_path, artifact.path, variables={"LISSOM_FAST_PATH": "0"}) as server:
        assert server.request("POST", "/predict", BODY)[0] == 200
        assert server.request("GET", "/v2")[0] == 200
        assert {"/v2", "/predict"} <= endpoints_of(server.request("GET", "/metrics")[1])


def test_files_beside_the_user_are_not_imported(tmp_path: Path) -> None:
    for name in ("bentoml", "orjson", "uvicorn", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    process = launch(tmp_path, artifact.path, variables={"PYTHONSAFEPATH": "1"})
    try:
        assert process.stdout.readline().startswith("ready"), (tmp_path / "log.txt").read_text()
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_an_engine_that_fails_in_the_worker_is_reported_as_what_it_is(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny", probe_shift=1.0)
    assert_refused(launch(tmp_path, artifact.path), 2, "ArtifactError", "does not reproduce its stored probe")


@pytest.mark.parametrize(
    ("fault", "options", "reason"),
    [
        ("print('out of luck', flush=True); os._exit(3)", {}, "out of luck"),
        ("time.sleep(60)", {"ready_seconds": 5}, "not ready after 5 s"),
    ],
    ids=["dies", "hangs"],
)
def test_a_worker_that_dies_or_hangs_at_start_ends_everything(
    tmp_path: Path, fault: str, options: dict[str, Any], reason: str
) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    code = f"""
        import os, sys, time
        if {WORKER!r} in sys.orig_argv:
            {fault}
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(code))
    search = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = launch(tmp_path, artifact.path, variables={"PYTHONPATH": search}, **options)
    assert_refused(process, 70, "LissomError", reason)


def test_a_damaged_artifact_is_refused_at_once(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    artifact.file("model.onnx").write_bytes(b"damaged")
    assert_refused(launch(tmp_path, artifact.path), 2, "ArtifactError", "has changed")


def assert_refused(process: Any, code: int, kind: str, reason: str) -> None:
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        while process.poll() is None:
            family += root.children(recursive=True)
            time.sleep(0.2)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.split()[0]) == (code, kind)
    assert reason in out
    assert not any(member.is_running() for member in family)


def endpoints_of(metrics: bytes) -> set[str]:
    """The endpoints that BentoML has counted."""
    lines = [
        line for line in metrics.decode().splitlines() if line.startswith("bentoml_service_request_total{")
    ]
    return {line.partition('endpoint="')[2].partition('"')[0] for line in lines}
