"""Whom the service of a package answers, and what it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.artifacts import tiny_onnx_artifact

import lissom
from lissom.serve.keys import add_key
from lissom.serve.packaged import check_loopback

CODE = """
import os, sys
from pathlib import Path
from lissom.serve.packaged import service_of
service = service_of(Path(sys.argv[1]))
print(service.config["http"]["host"], os.environ["LISSOM_ARTIFACTS"], os.environ.get("LISSOM_KEYS"))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged")
    return lissom.package([tiny_onnx_artifact(folder / "tiny")], folder / "out").folder


def loaded(folder: Path, *words: str, fds: tuple[int, ...] = (), **variables: str) -> tuple[int, str]:
    """Exit code and words of a process that asks a package for its service."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), *words],
        env=os.environ | variables,
        pass_fds=fds,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_package_serves_what_lies_in_it_on_this_machine(package: Path) -> None:
    code, told = loaded(package, LISSOM_ARTIFACTS="/another")
    assert (code, told) == (0, f'127.0.0.1 ["tiny={package}/models/tiny"] None\n')


def test_in_a_container_every_address_is_listened_on(package: Path) -> None:
    assert loaded(package, BENTOML_CONTAINERIZED="true")[1].startswith("0.0.0.0 ")


@pytest.mark.parametrize(("address", "code"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
def test_a_worker_on_an_address_of_others_ends_without_keys(
    package: Path, tmp_path: Path, address: str, code: int
) -> None:
    with socket.create_server((address, 0)) as listener:
        words, fds = ("--fd", str(listener.fileno())), (listener.fileno(),)
        found, told = loaded(package, *words, fds=fds)
        assert found == code
        assert ("can be reached by other machines" in told) == bool(code)
        add_key(tmp_path / "keys", "ada")
        assert loaded(package, *words, fds=fds, LISSOM_KEYS=str(tmp_path / "keys"))[0] == 0


def test_the_keys_of_a_package_are_used(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "ada")
    artifact = tiny_onnx_artifact(tmp_path / "tiny")
    folder = lissom.package([artifact], tmp_path / "out", keys=tmp_path / "keys").folder
    assert loaded(folder, BENTOML_CONTAINERIZED="true")[1].endswith(f"{folder}/keys.txt\n")
    assert loaded(folder, LISSOM_KEYS="/own")[1].endswith("/own\n")


@pytest.mark.parametrize("address", [None, "127.0.0.1", "::1", "not an address"])
def test_this_machine_needs_no_keys(address: str | None) -> None:
    check_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2"])
def test_other_machines_do(address: str) -> None:
    with pytest.raises(SystemExit, match="lissom serve --new-key"):
        check_loopback(address)
