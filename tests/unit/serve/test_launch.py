"""What is checked and prepared before the server starts, and how its process is watched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.unit.artifacts import tiny_onnx_artifact

from lissom.errors import ArtifactError, LissomError, MachineError, RequestError
from lissom.serve.environment import Settings, read_failure, write_failure
from lissom.serve.keys import add_key
from lissom.serve.launch import Address, check_access, child_command, child_environment, free_address, serve
from lissom.serve.process import Process

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(99)
"""


def test_a_port_in_use_is_refused_with_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0", "localhost"):
            with pytest.raises(RequestError, match=f"port {port} of {host}") as caught:
                free_address(host, port)
            assert f"--port {port % 65535 + 1}" in caught.value.hint
            assert caught.value.exit_code == 2


def test_a_port_that_was_just_used_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            pass
    assert free_address("127.0.0.1", port) == Address("127.0.0.1", port)


def test_port_zero_takes_a_free_one() -> None:
    assert free_address("localhost", 0).port > 0


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("", 3000, "host is empty"),
        ("no such host", 3000, "unknown"),
        ("a" * 70, 3000, "unknown"),
        ("192.0.2.1", 3000, "cannot be used"),
        ("127.0.0.1", -1, "not a port"),
        ("127.0.0.1", 65536, "not a port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(host: str, port: int, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        free_address(host, port)


@pytest.mark.parametrize(
    ("ip", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("0.0.0.0", "http://127.0.0.1:3000"),
        ("::", "http://[::1]:3000"),
        ("192.0.2.1", "http://192.0.2.1:3000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(ip: str, url: str) -> None:
    assert Address(ip, 3000).url == url


def test_a_damaged_artifact_is_refused_before_anything_starts(tmp_path: Path) -> None:
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    model = artifact.file("model.onnx")
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="has changed"):
        serve([artifact.path])
    with pytest.raises(ArtifactError, match="no artifact at"):
        serve([tmp_path / "absent"])


@pytest.mark.parametrize(
    "settings", [Settings((Path("/a:b"), Path("c d"))), Settings((Path("a"),), "torch", 3)]
)
def test_settings_survive_the_environment(settings: Settings) -> None:
    assert Settings.read(settings.variables()) == settings


def test_settings_read_paths_joined_as_in_path() -> None:
    assert Settings.read({"LISSOM_ARTIFACTS": os.pathsep.join(("a", "b"))}) == Settings(
        (Path("a"), Path("b"))
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"LISSOM_ARTIFACTS": "[1"},
        {"LISSOM_THREADS": "many"},
        {"LISSOM_MAX_DELAY_MS": "soon"},
        {"LISSOM_FAST_PATH": "0", "LISSOM_KEYS": "keys"},
    ],
)
def test_settings_that_cannot_be_read_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=next(iter(variables))):
        Settings.read(variables)


def test_the_server_gets_private_folders_and_no_telemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"src{os.pathsep}{os.pathsep}/elsewhere")
    monkeypatch.setenv("BENTOML_HOME", "/the/users/own")
    found = child_environment(Settings((tmp_path,)), tmp_path, tmp_path / "failure.json")
    assert Path(found["BENTOML_HOME"]).parent == tmp_path
    assert (found["BENTOML_DO_NOT_TRACK"], found["OTEL_SDK_DISABLED"]) == ("True", "true")
    assert found["PYTHONPATH"] == os.pathsep.join((str(Path("src").absolute()), "/elsewhere"))
    command = child_command(Address("127.0.0.1", 3000), tmp_path)
    assert command[command.index("--working-dir") + 1] == str(tmp_path)


@pytest.mark.parametrize("exc", [ArtifactError("damaged", hint="restore it"), MachineError("no compiler")])
def test_a_failure_of_the_server_reaches_the_launcher_as_what_it_was(
    tmp_path: Path, exc: LissomError
) -> None:
    file = tmp_path / "failure.json"
    assert read_failure(file) is None
    write_failure(exc, file)
    found = read_failure(file)
    assert (type(found), found and found.message, found and found.hint) == (type(exc), exc.message, exc.hint)


def start(code: str, folder: Path, lines: list[str]) -> Process:
    return Process([sys.executable, "-c", code], dict(os.environ), folder=folder, on_line=lines.append)


def test_the_lines_of_a_process_are_passed_on_and_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    with start(
        "import sys\nfor i in range(50): print(i, flush=True)\nprint('bad', file=sys.stderr)", tmp_path, lines
    ) as process:
        assert process.wait() == 0
        last = process.last_lines().split()
    assert len(lines) == 51
    assert last == [*map(str, range(31, 50)), "bad"]
    assert process.lost_a_worker()


def test_a_process_is_read_on_when_nobody_looks(tmp_path: Path) -> None:
    def gone(line: str) -> None:
        raise BrokenPipeError

    code = "for i in range(20_000): print('a line that fills the pipe', i)"
    with Process([sys.executable, "-c", code], dict(os.environ), folder=tmp_path, on_line=gone) as process:
        assert process.wait() == 0
        assert process.last_lines().endswith("19999")


def test_a_process_and_its_descendants_end_with_the_block(tmp_path: Path) -> None:
    nested = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    code = f"import time; {nested}; print('ready', flush=True); time.sleep(99)"
    lines: list[str] = []
    others = set(psutil.Process().children(recursive=True))  # left by other tests of this process
    with start(code, tmp_path, lines):
        until(lambda: "ready" in lines)
        descendants = set(psutil.Process().children(recursive=True)) - others
        assert len(descendants) >= 2
    until(lambda: not any(process.is_running() for process in descendants))
    assert not any(process.is_running() for process in descendants)


def test_a_process_that_ignores_the_signal_is_ended_when_the_grace_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.serve.process._DYING_SECONDS", 0.2)
    lines: list[str] = []
    with start(DEAF, tmp_path, lines) as process:
        until(lambda: "ready" in lines)
        process.stop(0.1)
        assert process.stopping
        assert process.wait() == -9


def test_the_second_request_to_stop_ends_a_process_at_once(tmp_path: Path) -> None:
    lines: list[str] = []
    with start(DEAF, tmp_path, lines) as process:
        until(lambda: "ready" in lines)
        process.stop(99)
        process.stop(99)
        assert process.wait() == -9


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_launcher_imports_neither_torch_nor_an_engine_nor_bentoml() -> None:
    code = "import sys, lissom.serve.launch; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "lissom.serve.launch" in found
    assert not {"torch", "onnx", "onnxruntime", "openvino", "bentoml", "scipy"} & set(found)


def test_other_machines_are_served_only_with_keys(tmp_path: Path) -> None:
    check_access(Address("127.0.0.1", 1), None, None)
    check_access(Address("::1", 1), None, None)
    for ip in ("0.0.0.0", "192.168.1.2", "::"):
        with pytest.raises(RequestError, match="can be reached by other machines"):
            check_access(Address(ip, 1), None, None)
    file = tmp_path / "keys"
    with pytest.raises(RequestError, match="cannot be read"):
        check_access(Address("0.0.0.0", 1), file, None)
    add_key(file, "one")
    check_access(Address("0.0.0.0", 1), file, 5.0)
    with pytest.raises(RequestError, match="rate limit"):
        check_access(Address("127.0.0.1", 1), None, 5.0)
