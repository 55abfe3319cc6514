"""What a package holds, when it is refused, and that it is there whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.artifacts import tiny_onnx_artifact

import lissom
from lissom.artifact import Artifact, Factory
from lissom.cli import main
from lissom.errors import ArtifactError, DiskFull, LissomError, RequestError
from lissom.optional import version
from lissom.serve import packaging
from lissom.serve.keys import add_key
from lissom.serve.packaging import Package, Plan, build, plan, requirements, write


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    found = tiny_onnx_artifact(tmp_path / "tiny")
    found.add_evidence({"artifact": {"digest": found.digest}, "finished": "2026-01-01"}, name="record")
    (found.path / "stray.txt").write_text("not part of it")
    (found.path / "payload" / "stray.bin").write_bytes(b"nor this")
    return found


def packaged(artifact: Artifact, out: Path, **options: Any) -> Package:
    return lissom.package([artifact], out, **options)


def test_the_folder_holds_a_project_and_a_proven_copy(artifact: Artifact, tmp_path: Path) -> None:
    found = packaged(artifact, tmp_path / "out")
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    wheel = f"wheels/lissom-{version('lissom')}-py3-none-any.whl"
    copied = {f"models/tiny/{entry.path}" for entry in artifact.manifest.files}
    copied |= {"models/tiny/manifest.json", "models/tiny/evidence/record.json"}
    project = {"service.py", "bentofile.yaml", "requirements.txt", "Dockerfile", "README.md", ".dockerignore"}
    assert names - {wheel} == project | copied
    assert Artifact.open(found.folder / "models" / "tiny").digest == artifact.digest
    assert found.plan.models == ("tiny",)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "out"}


def test_the_versions_are_those_that_are_here(artifact: Artifact) -> None:
    lines = requirements([artifact], has_wheel=False)
    assert f"lissom[cpu]=={version('lissom')}" in lines
    for name in ("bentoml", "numpy", "torch", "onnxruntime", "openvino"):
        assert f"{name}=={version(name)}" in lines
    with_wheel = requirements([artifact], has_wheel=True)
    assert f"./wheels/lissom-{version('lissom')}-py3-none-any.whl" in with_wheel
    assert not [line for line in with_wheel if line.startswith("lissom")]


@pytest.mark.parametrize(
    ("build_of_torch", "index"),
    [("2.13.0+cpu", "cpu"), ("2.13.0+cu130", "cu130"), ("2.13.0", None), ("2.13.0+git1a2b", None)],
)
def test_the_index_of_torch_is_named_where_its_build_is_not_that_of_pypi(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, build_of_torch: str, index: str | None
) -> None:
    real = packaging.version
    monkeypatch.setattr(packaging, "version", lambda name: build_of_torch if name == "torch" else real(name))
    lines = requirements([artifact], has_wheel=False)
    indices = [line for line in lines if line.startswith("--")]
    assert indices == ([f"--extra-index-url https://download.pytorch.org/whl/{index}"] if index else [])
    assert f"torch=={build_of_torch}" in lines


def test_onnx_runtime_for_gpus_is_named_as_it_is_called(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"onnxruntime": "absent", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(packaging, "version", lambda name: here.get(name, "1.0"))
    lines = requirements([artifact], has_wheel=False)
    assert "onnxruntime-gpu==1.31.0" in lines
    assert {"lissom[gpu]==1.0", "polygraphy==1.0"} <= set(lines)
    assert not [line for line in lines if line.startswith("onnxruntime==")]


def test_the_dockerfile_passes_its_linter(artifact: Artifact, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert hadolint, "hadolint is missing: pip install 'lissom[dev]'"
    add_key(tmp_path / "keys", "ada")
    plain = plan([artifact.path], tmp_path / "out")
    with_keys = plan([artifact.path], tmp_path / "out", keys=tmp_path / "keys")
    for number, one in enumerate((plain, with_keys, _compiling(plain))):
        folder = write(one, tmp_path / f"out-{number}").folder
        done = subprocess.run(
            [hadolint, "--no-color", folder / "Dockerfile"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "")


def _compiling(plain: Plan) -> Plan:
    (artifact,) = plain.artifacts
    manifest = artifact.manifest.model_copy(update={"format": "aotinductor"})
    return plain._replace(artifacts=(Artifact(artifact.path, manifest, artifact.digest),))


def test_the_image_runs_as_an_ordinary_user_with_keys_and_without_a_compiler(
    artifact: Artifact, tmp_path: Path
) -> None:
    found = packaged(artifact, tmp_path / "out")
    text = (found.folder / "Dockerfile").read_text()
    assert "USER 10001" in text
    assert "apt-get" not in text
    assert "127.0.0.1:3000/v2/health/ready" in text
    command = json.loads(text.splitlines()[-1].removeprefix("CMD "))
    assert command == [
        "serve",
        "models/tiny",
        *("--host", "0.0.0.0", "--port", "3000", "--keys", "/keys/keys.txt"),
    ]
    assert "g++" in packaging._dockerfile(_compiling(found.plan))


def test_the_bentofile_says_what_goes_into_a_bento(artifact: Artifact, tmp_path: Path) -> None:
    found = packaged(artifact, tmp_path / "out", name="cats")
    document = yaml.safe_load((found.folder / "bentofile.yaml").read_text())
    assert (document["name"], document["service"]) == ("cats", "service:ModelService")
    assert {env["name"] for env in document["envs"]} >= {"BENTOML_DO_NOT_TRACK", "OTEL_SDK_DISABLED"}
    assert "models/**" in document["include"]
    assert packaging._bentofile(_compiling(found.plan))["docker"]["system_packages"] == ["g++"]  # type: ignore[index]


def test_keys_go_along_as_hashes(artifact: Artifact, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ada")
    found = packaged(artifact, tmp_path / "out", keys=tmp_path / "keys")
    assert key not in (found.folder / "keys.txt").read_text()
    assert (found.folder / "keys.txt").read_bytes() == (tmp_path / "keys").read_bytes()
    text = (found.folder / "Dockerfile").read_text()
    assert "COPY --chown=10001 keys.txt" in text
    assert '"--keys", "keys.txt"' in text
    with pytest.raises(RequestError, match="cannot be read"):
        packaged(artifact, tmp_path / "other", keys=tmp_path / "absent")


def test_several_models_are_named_by_the_folder(artifact: Artifact, tmp_path: Path) -> None:
    second = tiny_onnx_artifact(tmp_path / "second", recipe="second")
    found = plan([artifact.path, second.path], tmp_path / "My Models")
    assert (found.name, found.models) == ("my-models", ("tiny", "second"))
    assert plan([artifact.path], tmp_path / "My Models").name == "tiny"


@pytest.mark.parametrize("name", ["", "Cats", "a b", "-a", "a" * 64])
def test_a_name_that_bentoml_does_not_take_is_refused(artifact: Artifact, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="no name of a bento"):
        plan([artifact.path], tmp_path / "out", name=name)


def test_a_folder_that_is_there_is_not_overwritten(artifact: Artifact, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    packaged(artifact, out)  # an empty one is taken
    before = (out / "README.md").stat().st_mtime_ns
    with pytest.raises(RequestError, match="is there already") as caught:
        packaged(artifact, out)
    assert f"rm -r {out}" in caught.value.hint
    assert (out / "README.md").stat().st_mtime_ns == before
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(RequestError, match="is there already"):
            packaged(artifact, tmp_path / name)


def test_what_is_no_artifact_or_damaged_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact at"):
        plan([tmp_path / "absent"], tmp_path / "out")
    artifact.file("model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="has changed"):
        packaged(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_the_users_own_code_is_refused(tmp_path: Path) -> None:
    factory = Factory(source="own.py:build", kwargs={}, sha256="0" * 64)
    artifact = tiny_onnx_artifact(tmp_path / "own", factory=factory)
    with pytest.raises(ArtifactError, match=r"built by own\.py:build") as caught:
        plan([artifact.path], tmp_path / "out")
    assert f"lissom export {artifact.path}" in caught.value.hint


def test_an_artifact_that_changes_while_it_is_copied_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    found = plan([artifact.path], tmp_path / "out")
    other = tiny_onnx_artifact(tmp_path / "other", probe_shift=1.0)
    shutil.copytree(other.path, artifact.path, dirs_exist_ok=True)
    shutil.rmtree(artifact.path / "evidence")
    with pytest.raises(ArtifactError, match="changed while it was copied"):
        write(found, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("tiny", "other")]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EROFS, RequestError)])
def test_what_cannot_be_written_leaves_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[LissomError]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, "cannot")

    monkeypatch.setattr(packaging.shutil, "copyfile", fails)
    with pytest.raises(kind):
        packaged(artifact, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_bento_that_cannot_be_built_is_said_and_the_folder_stays(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = packaged(artifact, tmp_path / "out")
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="no room\nno bento")
    monkeypatch.setattr(packaging.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(LissomError, match="no bento") as caught:
        build(found)
    assert str(found.folder) in caught.value.hint


def test_the_verb_tells_what_it_wrote(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["package", str(artifact.path), "--out", str(out), "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not out.exists()
    assert main(["package", str(artifact.path), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["verb"], document["ok"], document["out"]) == ("package", True, str(out))
    assert document["artifact"]["digest"] == artifact.digest
    assert document["package"]["models"][0]["name"] == "tiny"
    assert document["package"]["tag"] is None
    assert main(["package", str(artifact.path), "--out", str(out)]) == 2
    assert f"rm -r {out}" in capsys.readouterr().err
    assert main(["package", str(tmp_path / "absent"), "--out", str(tmp_path / "new"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["type"] == "ArtifactError"
