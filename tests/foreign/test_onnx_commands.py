"""`serve`, `package`, `evaluate` and `verify` take a file of somebody else on the command line.

Right answers come from ONNX Runtime, called directly with the file.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.foreign.batches import KINDS, engine, graph, node

WEIGHTS = np.random.default_rng(3).normal(size=(6, 3)).astype(np.float32)
ROWS = np.random.default_rng(4).uniform(0, 255, (60, 6)).astype(np.float32)


def classifier(bias: float) -> Any:
    constants = {"w": WEIGHTS, "b": np.float32([bias, 0, 0]) - 127.5 * WEIGHTS.sum(axis=0)}
    nodes = [node("MatMul", "x w", "a"), node("Add", "a b", "y")]
    return graph(nodes, {"x": ["n", 6]}, {"y": ["n", 3]}, constants)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("commands")
    for name, bias in (("one", 0.0), ("two", 1e4)):
        onnx.save(classifier(bias), found / f"{name}.onnx")
    labels = engine(classifier(0.0))({"x": ROWS})["y"].argmax(axis=1)
    np.savez(found / "rows.npz", x=ROWS, labels=labels)
    return found


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lissom", *words]


def environment() -> dict[str, str]:
    search = os.pathsep.join(str(Path(part).absolute()) for part in sys.path if part and Path(part).is_dir())
    return {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}


def run(folder: Path, *words: str, code: int = 0) -> Any:
    ended = subprocess.run(
        command(*words, "--json"), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_evaluate_counts_as_the_file_itself_answers(folder: Path) -> None:
    found = run(folder, "evaluate", "one.onnx", "--data", "rows.npz?labels=labels")
    other = run(folder, "evaluate", "two.onnx", "--data", "rows.npz?labels=labels")
    assert found["score"] == 1
    assert other["score"] < 1


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[http.client.HTTPConnection]:
    words = ("serve", "one.onnx", "second=two.onnx", "--data", "rows.npz?labels=labels", "--port", "0")
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(command(*words), cwd=folder, env=environment(), stderr=stream)
    try:
        while not (url := re.search(r"at http://([0-9.:]+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield http.client.HTTPConnection(url[1], timeout=60)
    finally:
        process.terminate()
        process.wait(60)


def asked(server: http.client.HTTPConnection, path: str, body: Any = None) -> Any:
    server.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    response = server.getresponse()
    return response, json.loads(response.read())


@pytest.mark.parametrize(("name", "bias"), [("one", 0.0), ("second", 1e4)])
def test_serve_answers_as_the_file_itself(server: http.client.HTTPConnection, name: str, bias: float) -> None:
    response, found = asked(server, f"/predict/{name}", {"inputs": {"x": ROWS[:3].tolist()}})
    assert response.status == 200
    right = engine(classifier(bias))({"x": ROWS[:3]})["y"]
    np.testing.assert_allclose(found["outputs"]["y"], right, rtol=1e-5)
    assert found["warnings"] == []


def test_a_picture_between_0_and_1_is_warned_of(server: http.client.HTTPConnection) -> None:
    response, found = asked(server, "/predict/one", {"inputs": {"x": (ROWS[:3] / 255).tolist()}})
    assert response.status == 200
    assert "the samples that the model was calibrated with go from" in found["warnings"][0]
    assert response.getheader("x-lissom-warning")


def test_package_plans_both_under_their_names(folder: Path) -> None:
    words = ("package", "one.onnx", "second=two.onnx", "--data", "rows.npz?labels=labels", "--out", "made")
    run(folder, *words, "--dry-run")
    assert not (folder / "made").exists()


def test_verify_takes_a_file_whose_states_the_data_leave_out(folder: Path) -> None:
    found = KINDS["states"]["GRU"]()
    onnx.save(found.model, folder / "gru.onnx")
    np.savez(folder / "gru.npz", x=found.samples["x"])
    told = run(folder, "verify", "gru.onnx", "gru.onnx", "--data", "gru.npz")
    assert told["ok"]


def test_made_inputs_are_not_explained(folder: Path) -> None:
    run(folder, "inspect", "one.onnx", "--out", "inspected")
    told = json.loads((folder / "inspected" / "inspect.json").read_text())
    assert (told["explanations"], "inputs are made" in " ".join(told["remarks"])) == ([], True)


@pytest.mark.parametrize("verb", ["predict", "inspect"])
@pytest.mark.parametrize(("given", "told"), [(np.float64, True), (np.float32, False)])
def test_floats_that_lose_digits_are_told(
    folder: Path, verb: str, given: type[np.generic], told: bool
) -> None:
    name = f"{given.__name__}.npz"
    np.savez(folder / name, x=(ROWS.astype(np.float64) + (1e-9 if told else 0)).astype(given))
    ended = subprocess.run(
        command(verb, "one.onnx", "--data", name),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ("x is rounded from float64 to float32" in ended.stderr) == told
