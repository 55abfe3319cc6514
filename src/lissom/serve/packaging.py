"""A folder that serves artifacts by itself: a BentoML project, a Dockerfile, the models, exact versions.

    DIR/
        service.py          cd DIR && bentoml serve
        bentofile.yaml      cd DIR && bentoml build
        requirements.txt    what was installed here, by version
        Dockerfile          docker build DIR
        README.md
        models/<name>/      each artifact with its evidence, every hash checked after the copy
        wheels/             lissom itself, where no index has it
        keys.txt            hashes of API keys, where a file was given

It is written under a temporary name and renamed, so that DIR is whole or not there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from lissom.artifact import EVIDENCE_NAME, MANIFEST_NAME, TEMPORARY_PREFIX, Artifact
from lissom.errors import ArtifactError, DiskFull, LissomError, RequestError, is_disk_full
from lissom.optional import version
from lissom.registry import MODELS, RUNTIMES, runtimes_for
from lissom.runtime.availability import absence
from lissom.serve.keys import read_keys
from lissom.serve.naming import source_of
from lissom.serve.package_files import COMPILER, DOCKERFILE, README, SERVICE
from lissom.serve.packaged import KEYS_NAME, MODELS_NAME, WHEELS_NAME
from lissom.serve.repository import check_artifacts
from lissom.serve.wheel import brought_by, is_from_index, wheel

_BENTO_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_CORE = ("bentoml", "numpy", "torch")
"""What lissom itself calls whatever is served, and whose version can change an answer."""
_BUILDS_OF_TORCH = re.compile(r"cpu|cu\d+|rocm[\d.]+|xpu")
_INDEX_OF_TORCH = "https://download.pytorch.org/whl"
_VARIABLES = {
    "BENTOML_DO_NOT_TRACK": "True",
    "OTEL_SDK_DISABLED": "true",
    # An image of BentoML is installed by uv, which asks no second index for what the first one has at all:
    # that of PyTorch has old versions of others.
    "UV_INDEX_STRATEGY": "unsafe-best-match",
}
_NEEDS_COMPILER = ("aotinductor",)
"""Formats whose engine calls a C++ compiler."""


class Plan(NamedTuple):
    """What a package holds.

    Attributes:
        name: Of the bento and the image.
        artifacts: The models.
        models: Their names, all different, under which they are served.
        requirements: Lines of requirements.txt.
        python: Version of Python, such as 3.12.
        keys: File of API keys that goes along.
        has_wheel: Whether lissom itself goes along.
        size_bytes: Of the models with their evidence.
    """

    name: str
    artifacts: tuple[Artifact, ...]
    models: tuple[str, ...]
    requirements: tuple[str, ...]
    python: str
    keys: Path | None
    has_wheel: bool
    size_bytes: int

    @property
    def needs_compiler(self) -> bool:
        """Whether an engine calls a C++ compiler."""
        return any(artifact.manifest.format in _NEEDS_COMPILER for artifact in self.artifacts)


class Package(NamedTuple):
    """What was written.

    Attributes:
        folder: The project.
        plan: What it holds.
        tag: Of the bento that was built; None where none was asked for.
    """

    folder: Path
    plan: Plan
    tag: str | None = None


def plan(
    artifacts: Sequence[str | Path], out: Path, *, name: str | None = None, keys: Path | None = None
) -> Plan:
    """What a package of these artifacts holds; nothing is written.

    Args:
        artifacts: Folders of artifacts, or NAME=PATH.
        out: Folder of the package, which must not be there, or be empty.
        name: Of the bento; default: the name of the only model, else that of the folder.
        keys: File of API keys.

    Raises:
        RequestError: an artifact, the folder, the name or the keys cannot be used.
        MachineError: no runtime for an artifact is here, whose version could be named.
    """
    sources = [source_of(artifact) for artifact in artifacts]
    checked = check_artifacts(sources, verb=f"package --out {shlex.quote(str(out))}")
    models = tuple(source.name_of(artifact) for source, artifact in zip(sources, checked, strict=True))
    for model, artifact in zip(models, checked, strict=True):
        _check_alone(artifact, model)
    _check_free(out)
    if keys is not None:
        read_keys(keys)
    has_wheel = not is_from_index()
    return Plan(
        name=_bento_name(name, models[0] if len(models) == 1 else out.absolute().name),
        artifacts=tuple(checked),
        models=models,
        requirements=requirements(checked, has_wheel=has_wheel),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        keys=keys,
        has_wheel=has_wheel,
        size_bytes=sum(file.stat().st_size for artifact in checked for file in _files(artifact)),
    )


def write(plan: Plan, out: Path) -> Package:
    """Write a package; gives it.

    Raises:
        RequestError: the folder cannot be written, or has come into being meanwhile.
        DiskFull: no space is left; nothing stays behind.
    """
    out = out.absolute()
    temporary = out.parent / f"{TEMPORARY_PREFIX}{out.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _fill(temporary, plan)
        _check_free(out)
        temporary.rename(out)
    except OSError as exc:
        if is_disk_full(exc):
            raise DiskFull(
                f"no space left on the disk of {out.parent} ({plan.size_bytes:,} bytes of models)",
                hint="free some space (lissom clean DIR removes what no report refers to) and run again",
            ) from exc
        raise RequestError(f"{out} cannot be written: {exc.strerror}", hint="name another folder") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Package(out, plan)


def build(package: Package) -> Package:
    """Make a bento of a package, in BentoML's own store, and say its tag.

    Raises:
        LissomError: BentoML failed.
    """
    command = [sys.executable, "-m", "bentoml", "build", ".", "--output", "tag"]  # it takes no other folder
    variables = os.environ | {"BENTOML_DO_NOT_TRACK": "True"}
    found = subprocess.run(
        command, cwd=package.folder, capture_output=True, text=True, env=variables, check=False
    )
    tag = re.search(r"__tag__:(\S+)", found.stdout)
    if found.returncode != 0 or tag is None:
        last = "\n".join(f"  {line}" for line in (found.stderr or found.stdout).splitlines()[-10:])
        raise LissomError(
            f"{package.folder} was written, and BentoML could not build it:\n{last}",
            hint=f"cd {package.folder} && bentoml build .",
        )
    return package._replace(tag=tag[1])


def requirements(artifacts: Sequence[Artifact], *, has_wheel: bool) -> tuple[str, ...]:
    """Lines of requirements.txt: lissom, and the versions here of whatever executes the artifacts.

    The index of PyTorch is named where its build is not the one of PyPI. What an extra of lissom brings is
    named as well: BentoML garbles the extra of a wheel.
    """
    engines = sorted({_distribution(name) for artifact in artifacts for name in _engines(artifact)})
    extra, lissom_version = _extra(engines), version("lissom")
    ours = f"./{WHEELS_NAME}/lissom-{lissom_version}-py3-none-any.whl"
    pinned = {name: version(name) for name in sorted({*_CORE, *engines, *brought_by(extra)})}
    build_of_torch = pinned["torch"].partition("+")[2]
    index = _BUILDS_OF_TORCH.fullmatch(build_of_torch)
    return (
        *([f"--extra-index-url {_INDEX_OF_TORCH}/{build_of_torch}"] if index else ()),
        ours if has_wheel else f"lissom[{extra}]=={lissom_version}".replace("[]", ""),
        *(f"{name}=={found}" for name, found in pinned.items() if found != "absent"),
    )


def _engines(artifact: Artifact) -> list[str]:
    return [name for name in runtimes_for(artifact.manifest.format) if absence(name) is None]


def _distribution(runtime: str) -> str:
    """The installed distribution of a runtime; ONNX Runtime comes in two."""
    name = RUNTIMES[runtime].distribution
    alternative = f"{name}-gpu"
    return alternative if version(name) == "absent" and version(alternative) != "absent" else name


def _extra(engines: Sequence[str]) -> str:
    """The extra of lissom that brings these distributions; empty for torch, which comes without one."""
    extras = {entry.extra for entry in RUNTIMES.values() if entry.distribution in {*engines} - {"torch"}}
    if "gpu" in extras or "onnxruntime-gpu" in engines:  # never both: they overwrite each other
        return "gpu"
    return "cpu" if extras else ""


def _check_alone(artifact: Artifact, name: str) -> None:
    """Refuse what is not served by its folder alone.

    Raises:
        ArtifactError: it needs code of the user, or its name is none for a folder.
    """
    factory = artifact.manifest.factory
    if factory is not None and factory.source not in MODELS:
        raise ArtifactError(
            f"{artifact.path} is built by {factory.source}, code that a package does not hold",
            hint=f"lissom export {artifact.path} --data DATA makes a model that needs no code",
        )
    if not _FOLDER_NAME.fullmatch(name):
        raise ArtifactError(
            f"{artifact.path} is called {name!r}, which names no folder",
            hint=f"name it: NAME={artifact.path}",
        )


def _check_free(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise RequestError(
            f"{out} is there already, and is not overwritten", hint=f"rm -r {out}, or name another with --out"
        )


def _bento_name(asked: str | None, usual: str) -> str:
    """The name of the bento: as asked, or the usual one in letters that BentoML takes.

    Raises:
        RequestError: it is none.
    """
    name = asked if asked is not None else re.sub(r"[^a-z0-9._-]+", "-", usual.lower()).strip("-._")
    if not _BENTO_NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no name of a bento",
            hint="--name: lower case letters, digits, '.', '-' and '_', at most 63",
        )
    return name


def _fill(folder: Path, plan: Plan) -> None:
    for name, artifact in zip(plan.models, plan.artifacts, strict=True):
        _copy(artifact, folder / MODELS_NAME / name)
    if plan.has_wheel:
        file, content = wheel()
        (folder / WHEELS_NAME).mkdir()
        (folder / WHEELS_NAME / file).write_bytes(content)
    if plan.keys is not None:
        shutil.copyfile(plan.keys, folder / KEYS_NAME)
    texts = {
        "service.py": SERVICE,
        "bentofile.yaml": yaml.safe_dump(_bentofile(plan), sort_keys=False),
        "requirements.txt": "".join(f"{line}\n" for line in plan.requirements),
        "Dockerfile": _dockerfile(plan),
        "README.md": _readme(plan),
        ".dockerignore": "__pycache__\n",
    }
    for file, text in texts.items():
        (folder / file).write_text(text)


def _files(artifact: Artifact) -> list[Path]:
    """What is copied of an artifact: the manifest, what it lists, and the evidence."""
    listed = [artifact.path / entry.path for entry in artifact.manifest.files]
    return [artifact.path / MANIFEST_NAME, *listed, *sorted((artifact.path / EVIDENCE_NAME).glob("*.json"))]


def _copy(artifact: Artifact, target: Path) -> None:
    """Copy an artifact, and prove the copy.

    Raises:
        ArtifactError: it changed meanwhile.
    """
    for file in _files(artifact):
        place = target / file.relative_to(artifact.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    if Artifact.open(target).digest != artifact.digest:
        raise ArtifactError(f"{artifact.path} changed while it was copied", hint="run again")


def _bentofile(plan: Plan) -> dict[str, object]:
    docker: dict[str, object] = {"distro": "debian", "python_version": plan.python}
    if plan.needs_compiler:
        docker["system_packages"] = ["g++"]
    return {
        "service": "service:ModelService",
        "name": plan.name,
        "include": ["service.py", "requirements.txt", "README.md", f"{MODELS_NAME}/**"]
        + [f"{WHEELS_NAME}/**"] * plan.has_wheel
        + [KEYS_NAME] * (plan.keys is not None),
        "python": {"requirements_txt": "./requirements.txt", "lock_packages": False},
        "docker": docker,
        "envs": [{"name": name, "value": value} for name, value in _VARIABLES.items()],
    }


def _dockerfile(plan: Plan) -> str:
    folders = [
        f"{MODELS_NAME}/{name}" if name == artifact.manifest.recipe else f"{name}={MODELS_NAME}/{name}"
        for name, artifact in zip(plan.models, plan.artifacts, strict=True)
    ]
    keys = KEYS_NAME if plan.keys is not None else "/keys/keys.txt"
    words = ["serve", *folders, "--host", "0.0.0.0", "--port", "3000", "--keys", keys]
    return DOCKERFILE.substitute(
        name=plan.name,
        python=plan.python,
        compiler=COMPILER if plan.needs_compiler else "",
        wheels=f"COPY {WHEELS_NAME} ./{WHEELS_NAME}\n" if plan.has_wheel else "",
        keys=f"COPY --chown=10001 {KEYS_NAME} ./\n" if plan.keys is not None else "",
        command=", ".join(f'"{word}"' for word in words),
    )


def _readme(plan: Plan) -> str:
    rows = "".join(
        f"| {name} | {artifact.manifest.format} | {artifact.manifest.precision} "
        f"| {artifact.size_bytes:,} | {artifact.digest[:16]} |\n"
        for name, artifact in zip(plan.models, plan.artifacts, strict=True)
    )
    makes_key = "lissom serve --new-key NAME --keys keys/keys.txt\nsudo chown -R 10001 keys\n"
    return README.substitute(
        name=plan.name,
        model=plan.models[0],
        table=rows,
        new_key=makes_key if plan.keys is None else "",
        mount="" if plan.keys is not None else ' -v "$(realpath keys):/keys:ro"',
    )
