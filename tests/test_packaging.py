"""What is installed is src/lissom and nothing else; the links at the root only show the way to it."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lissom"
LINKS = ("compress", "serve", "models")
JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from it, in a copy so that no earlier build can leak in."""
    project, out = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    for name in ("src", "tests", "benchmarks", "examples"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, project / name, symlinks=True, ignore=JUNK)
    for name in LINKS:
        (project / name).symlink_to((ROOT / name).readlink())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel_names(dist: Path) -> set[str]:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def source_names() -> set[str]:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in files}


@pytest.mark.parametrize("name", LINKS)
def test_link_at_the_root_is_relative_and_resolves_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink(), f"{name} is not a link; with git, core.symlinks must be true"
    assert link.readlink() == Path("src/lissom", name)
    assert link.resolve() == PACKAGE / name
    assert (link / "__init__.py").is_file()


def test_wheel_holds_exactly_the_files_of_the_package(wheel_names: set[str]) -> None:
    packaged = {name for name in wheel_names if ".dist-info/" not in name}
    assert packaged == source_names()


def test_wheel_has_no_top_level_name_but_lissom(wheel_names: set[str]) -> None:
    top = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"lissom"}
    assert len(top) == 2


def test_wheel_carries_the_license_and_the_command(wheel_names: set[str]) -> None:
    inside = {PurePosixPath(name).name for name in wheel_names if ".dist-info/" in name}
    assert {"LICENSE", "entry_points.txt"} <= inside


def test_sdist_does_not_follow_the_links(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        top = {PurePosixPath(name).parts[1] for name in archive.getnames() if "/" in name}
    assert not top & set(LINKS)


def test_no_project_file_mentions_a_path_of_this_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    # Short paths such as / or /app would also match by chance.
    here = (path for path in (ROOT, Path.home(), Path(sys.prefix)) if len(path.parts) > 2)
    needles = [f"{path}/".encode() for path in here] + [b"/home" + b"/", b"/Users" + b"/", b"/root" + b"/"]
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    found = [
        f"{path.relative_to(ROOT)}: {needle.decode()}"
        for path in files
        if path.is_file()
        for needle in needles
        if needle in path.read_bytes()
    ]
    assert not found
