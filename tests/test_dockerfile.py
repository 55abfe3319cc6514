"""The Dockerfile passes its linter and keeps its two promises: targets cpu and gpu, neither run as root."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "Dockerfile"


def stages() -> dict[str, str]:
    """Text of each build stage by name, in order."""
    _, *parts = re.split(r"^FROM ", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.splitlines()[0].rpartition(" AS ")[2]: part for part in parts}


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert hadolint, "hadolint is missing: pip install 'lissom[dev]'"
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_default_target_is_cpu() -> None:
    assert list(stages()) == ["gpu", "cpu"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_target_installs_its_extra_and_runs_as_an_ordinary_user(target: str) -> None:
    stage = stages()[target]
    assert f"'.[{target}]'" in stage
    assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == ["10001"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_target_is_healthy_only_when_the_server_is_ready(target: str) -> None:
    stage = stages()[target]
    assert "EXPOSE 3000" in stage
    assert re.search(r"^HEALTHCHECK .*\n.*:3000/v2/health/ready", stage, re.MULTILINE)


def test_cpu_image_takes_the_torch_range_of_the_project() -> None:
    (asked,) = re.findall(r"'(torch[^']*)'", stages()["cpu"])
    assert f'"{asked}",' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
