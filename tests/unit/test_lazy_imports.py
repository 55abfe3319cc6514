"""What needs no heavy library imports none, and works where the optional ones are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "lightning", "plotly", "bentoml")

IMPORTED = """
import json, sys
heavy = json.loads(sys.argv[1])
import lissom
words = sys.argv[2:]
if words:
    from lissom.cli import main
    exit_code = main(words)
    assert exit_code == 0, exit_code
print(json.dumps([name for name in heavy if name in sys.modules]))
"""

BLOCKED = """
import importlib.machinery, sys

class Blocker(importlib.machinery.PathFinder):
    blocked = tuple(sys.argv[1].split(","))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.blocked else super().find_spec(name, path, target)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = Blocker
for name in Blocker.blocked:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} is not blocked")
from lissom.cli import main
sys.exit(main(sys.argv[2:]))
"""


def python(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["check", "recipes/digits.yaml"],
        ["check", "recipes/digits.yaml", "--json", "--set", "stages.train.epochs=3"],
    ],
    ids=lambda words: " ".join(words) or "import",
)
def test_what_needs_no_heavy_library_imports_none(words: list[str]) -> None:
    process = python(IMPORTED, json.dumps(HEAVY), *words)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == []


def test_the_help_is_there_before_what_reads_recipes() -> None:
    process = python(IMPORTED, json.dumps(["pydantic", "yaml", "numpy"]), "--help")
    assert json.loads(process.stdout.splitlines()[-1]) == []


def test_the_public_names_are_listed_without_importing_what_they_need() -> None:
    code = "import sys, lissom; print(dir(lissom) == lissom.__all__, 'torch' in sys.modules)"
    assert python(code).stdout.split() == ["True", "False"]


def test_importing_a_runtime_does_not_import_its_engine() -> None:
    code = (
        "import sys, lissom.runtime.onnx_runtime, lissom.runtime.open_vino\n"
        "print('onnxruntime' in sys.modules, 'openvino' in sys.modules)\n"
    )
    assert python(code).stdout.split() == ["False", "False"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["check", "recipes/digits.yaml"], ["models"]])
def test_without_the_engines_what_needs_none_works(words: list[str]) -> None:
    process = python(BLOCKED, "onnxruntime,openvino", *words)
    assert process.returncode == 0, process.stderr
    assert process.stdout


def test_without_the_engines_doctor_says_what_to_install() -> None:
    process = python(
        BLOCKED, "onnxruntime,openvino", "doctor", "--json", CXX="no-such-compiler", PATH="/nowhere"
    )
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout.splitlines()[-1])
    found = {row["runtime"]: row for row in document["runtimes"]}
    for name in ("onnxruntime", "openvino"):
        assert found[name]["works"] is False
        assert found[name]["reason"] == f"{name} is not installed: pip install 'lissom[cpu]'"
    assert found["inductor"]["reason"] == "there is no C++ compiler: apt-get install g++"
    assert found["torch"]["works"] is True


def test_without_the_engines_a_run_is_refused_before_any_work(tmp_path: Path) -> None:
    process = python(BLOCKED, "onnxruntime,openvino", "run", "recipes/digits.yaml", "--out", str(tmp_path))
    assert process.returncode == 3
    assert "pip install 'lissom[cpu]'" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.glob("[0-9]*"))
