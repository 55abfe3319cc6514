"""What the documentation shows is run."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import lissom

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader would have it: the recipes, nothing else."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", path / "recipes")
    return path


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_readmes_first_commands_run(folder: Path) -> None:
    process = shell(blocks("sh")[0], folder)
    assert process.returncode == 0, process.stderr + process.stdout
    assert (folder / "runs/digits/report.html").exists()


@pytest.fixture
def server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server of the README, on its own port, once it is ready."""
    command = blocks("sh")[1].splitlines()[0]
    assert command.startswith("lissom serve ")
    process = subprocess.Popen([*command.split(), "--port", "3987"], cwd=folder, env=environment())
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen("http://127.0.0.1:3987/v2/health/ready", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_readmes_server_answers_its_requests(folder: Path, server: subprocess.Popen[bytes]) -> None:
    requests = "\n".join(blocks("sh")[1].splitlines()[1:]).replace("localhost:3000", "127.0.0.1:3987")
    process = shell(requests, folder)
    assert process.returncode == 0, process.stderr
    assert '"labels":["0"]' in process.stdout


def test_the_readmes_single_verbs_run(folder: Path) -> None:
    process = shell(blocks("sh")[2], folder)
    assert process.returncode == 0, process.stderr + process.stdout


def test_the_readmes_prunings_run(folder: Path) -> None:
    process = shell(blocks("sh")[3], folder)
    assert process.returncode == 0, process.stderr + process.stdout
    assert "multiply-adds" in process.stdout


def test_the_readmes_quantizations_run(folder: Path) -> None:
    process = shell(blocks("sh")[4], folder)
    assert process.returncode == 0, process.stderr + process.stdout
    assert "node_linear" in process.stdout


def test_the_readmes_looks_inside_exports_and_files_from_elsewhere_run(folder: Path) -> None:
    for block in blocks("sh")[5:8]:
        process = shell(block, folder)
        assert process.returncode == 0, process.stderr + process.stdout
    assert (folder / "runs/digits/inside/inspect.html").exists()
    assert (folder / "runs/theirs/report.html").exists()


def test_the_readmes_python_runs(folder: Path) -> None:
    (folder / "python").mkdir()
    for block in blocks("python"):
        process = subprocess.run(
            [sys.executable, "-c", block], cwd=folder / "python", capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(("name", "said"), [("own_model.py", "gates passed"), ("own_task.py", "coverage")])
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "out")])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert said in capsys.readouterr().out


def test_the_example_of_a_recipe_in_the_docs_holds_together() -> None:
    (block,) = blocks("yaml", (ROOT / "docs" / "training.md").read_text())
    recipe = lissom.Recipe.from_document({"name": "shown", "stages": yaml.safe_load(block)})
    assert recipe.stages[0].stage == "train"


def test_the_recipes_on_distillation_hold_together() -> None:
    shown = blocks("yaml", (ROOT / "docs" / "distillation.md").read_text())
    recipes = [
        lissom.Recipe.from_document({"name": "shown", "stages": yaml.safe_load(block)}) for block in shown
    ]
    assert [recipe.stages[-1].stage for recipe in recipes] == ["distill"] * 3


def test_the_commands_on_distillation_run(tmp_path: Path) -> None:
    (script,) = blocks("sh", (ROOT / "docs" / "distillation.md").read_text())
    process = shell(script, tmp_path)
    assert process.returncode == 0, process.stderr + process.stdout
    assert "the teacher" in process.stdout


def test_the_recipes_on_pruning_hold_together() -> None:
    shown = blocks("yaml", (ROOT / "docs" / "pruning.md").read_text())
    recipes = [
        lissom.Recipe.from_document({"name": "shown", "stages": yaml.safe_load(block)}) for block in shown
    ]
    assert len(recipes) >= 2
    assert all("prune" in {stage.stage for stage in recipe.stages} for recipe in recipes)


def test_the_commands_on_pruning_run(tmp_path: Path) -> None:
    for script in blocks("sh", (ROOT / "docs" / "pruning.md").read_text()):
        process = shell(script, tmp_path)
        assert process.returncode == 0, process.stderr + process.stdout
    assert (tmp_path / "runs/sensitivity/sensitivity.html").exists()


def test_the_commands_on_quantization_run(tmp_path: Path) -> None:
    for script in blocks("sh", (ROOT / "docs" / "quantization.md").read_text()):
        process = shell(script, tmp_path)
        assert process.returncode == 0, process.stderr + process.stdout
    assert (tmp_path / "runs/noise/sensitivity.html").exists()


def test_the_commands_on_export_run(tmp_path: Path) -> None:
    for script in blocks("sh", (ROOT / "docs" / "export.md").read_text()):
        process = shell(script, tmp_path)
        assert process.returncode == 0, process.stderr + process.stdout
    assert (tmp_path / "runs/ir/report.html").exists()


def test_the_commands_on_measuring_run(tmp_path: Path) -> None:
    for script in blocks("sh", (ROOT / "docs" / "measuring.md").read_text()):
        process = shell(script, tmp_path)
        assert process.returncode == 0, process.stderr + process.stdout
    assert {path.name for path in (tmp_path / "runs/compared").iterdir()} >= {"compare.md", "junit.xml"}


def test_the_commands_on_inspecting_run(tmp_path: Path) -> None:
    for script in blocks("sh", (ROOT / "docs" / "inspecting.md").read_text()):
        process = shell(script, tmp_path)
        assert process.returncode == 0, process.stderr + process.stdout
    assert {path.name for path in (tmp_path / "runs/inside-int8").iterdir()} == {
        "inspect.html",
        "inspect.json",
    }


def test_the_readmes_figures_are_those_of_the_committed_benchmark() -> None:
    (path,) = re.findall(r"\((benchmarks/results/digits_\S+)\.md\)", README)
    result = json.loads((ROOT / f"{path}.json").read_bytes())
    verdict, steps = result["verdicts"][0], result["waterfall"]
    eager, best = verdict["speedup_eager"], verdict["speedup"]
    original = next(
        arm for arm in result["arms"] if (arm["artifact"], arm["runtime"]) == ("original", "onnxruntime")
    )
    for figure in (
        f"{steps[0]['size_bytes']:,} bytes",
        f"{steps[-1]['size_bytes']:,} bytes: **{verdict['size_ratio']:.1f}x smaller**",
        f"{steps[0]['latency_ms']:.3f} ms",
        f"{steps[-1]['latency_ms']:.3f} ms: **{eager['value']:.1f}x as fast** "
        f"(95 % {eager['low']:.1f} to {eager['high']:.1f})",
        f"{original['median_ms']['value']:.3f} ms",
        f"**{best['value']:.1f}x as fast** (95 % {best['low']:.1f} to {best['high']:.1f})",
        f"{steps[0]['accuracy'] * 100:.1f} %",
        f"{steps[-1]['accuracy'] * 100:.1f} %",
    ):
        assert figure in README, figure


def test_the_recipe_reference_is_up_to_date() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "recipe_reference.py"))
    assert (ROOT / "docs" / "recipe.md").read_text() == module["reference"](), (
        "run python docs/recipe_reference.py"
    )


def test_every_local_link_leads_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
