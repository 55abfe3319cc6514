"""A package serves by itself: from its folder, as a bento, and with the commands that it shows."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.unit.artifacts import LABELS, tiny_logits, tiny_onnx_artifact

import lissom
from lissom.serve.keys import add_key

ROOT = Path(__file__).parents[2]
ROWS = [[[[0, 1], [2, 3]]], [[[4, 5], [6, 7]]]]
BODY = json.dumps({"inputs": {"image": ROWS}}).encode()


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a stranger: no store of bentos but one below `folder`, no path of ours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LISSOM_KEYS")}
    search = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    private = {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", "PATH": search}
    return kept | private | variables


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("packages")
    artifacts = [tiny_onnx_artifact(folder / name, recipe=name) for name in ("tiny", "second")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        found = lissom.package(artifacts, folder / "out", name="cats", build=True)
    for artifact in artifacts:
        shutil.rmtree(artifact.path)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(folder: Path, *words: str, **variables: str) -> Iterator[int]:
    """The port of `bentoml serve`, once it is ready; nothing of it is left."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", *words, "--port", str(port)]
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder, **variables), stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 90
        while not is_ready(port):
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield port
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=60)
        for member in alive:
            member.kill()
        log.close()
        assert not alive


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def predicted(port: int, model: str, key: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict/{model}", BODY, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        document: dict[str, Any] = json.loads(answer.read())
    return document


def assert_both_answer(port: int) -> None:
    labels = [LABELS[index] for index in tiny_logits(ROWS).argmax(axis=1)]
    for model in ("tiny", "second"):
        found = predicted(port, model)
        assert (found["model"], found["labels"]) == (model, labels)


def test_the_folder_serves_wherever_it_is_moved(package: Any, tmp_path: Path) -> None:
    moved = shutil.copytree(package.folder, tmp_path / "else where")
    with serving(moved) as port:
        assert_both_answer(port)
        (listener,) = {
            connection.laddr.ip
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        assert listener == "127.0.0.1"


def test_the_bento_serves(package: Any) -> None:
    assert re.fullmatch(r"cats:[a-z0-9]+", package.tag)
    with serving(package.folder.parent, package.tag) as port:
        assert_both_answer(port)


def test_the_bento_is_one_that_an_image_can_be_made_of(package: Any) -> None:
    name, _, version = package.tag.partition(":")
    bento = package.folder.parent / "bentoml" / "bentos" / name / version
    dockerfile = (bento / "env" / "docker" / "Dockerfile").read_text()
    needed = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    (wheel,) = [line for line in needed if line.startswith("./wheels/lissom-")]
    assert (bento / "src" / wheel).is_file()
    copied = dockerfile.index("COPY --chown=bentoml:bentoml ./src/wheels")
    assert copied < dockerfile.index("pip install -r $BENTO_PATH")
    assert {f"onnxruntime=={lissom.optional.version('onnxruntime')}"} <= set(needed)
    assert "ENV BENTOML_DO_NOT_TRACK" in dockerfile
    assert "USER bentoml" in dockerfile
    described = yaml.safe_load((bento / "bento.yaml").read_text())
    assert (described["name"], described["service"]) == ("cats", "service:ModelService")
    assert (bento / "src" / "models" / "second" / "manifest.json").is_file()


def test_other_machines_are_answered_with_keys_only(package: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "serve", str(package.folder), "--host", "0.0.0.0"]
    refused = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, timeout=90, check=False
    )
    assert refused.returncode == 1
    assert "can be reached by other machines" in refused.stderr
    key = add_key(tmp_path / "keys", "ada")
    words = (str(package.folder), "--host", "0.0.0.0")
    with serving(tmp_path, *words, LISSOM_KEYS=str(tmp_path / "keys")) as port:
        assert predicted(port, "tiny", key)["model"] == "tiny"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            predicted(port, "tiny")


def test_what_the_docs_show_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    scripts = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (script,) = [block for block in scripts if block.startswith("lissom package")]
    (tmp_path / "runs/digits").mkdir(parents=True)
    tiny_onnx_artifact(tmp_path / "runs/digits/artifact", recipe="digits")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "digits-server" / "service.py").is_file()
