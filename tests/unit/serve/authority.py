"""Certificates for tests, made by the openssl of the machine; they are of no use anywhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
AUTHORITY = ("basicConstraints=critical,CA:TRUE",)
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Pair(NamedTuple):
    """A certificate and its key, PEM."""

    certificate: Path
    key: Path


def openssl(*words: object) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def self_signed(
    folder: Path, name: str = "server", *, days: int = 30, extensions: tuple[str, ...] = ()
) -> Pair:
    """A certificate of localhost, signed by itself.

    Args:
        folder: Where both files go.
        name: Stem of the files, and common name.
        days: Until it expires; -1 for one that has.
        extensions: More that stands in it, as openssl writes them.
    """
    pair, request = Pair(folder / f"{name}.pem", folder / f"{name}.key"), folder / f"{name}.csr"
    said = folder / f"{name}.ext"
    said.write_text("\n".join([NAMES, *extensions]))
    openssl("req", "-new", *NEW_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
    signing = ("-signkey", pair.key, "-days", days, "-extfile", said)
    openssl("x509", "-req", "-in", request, "-out", pair.certificate, *signing)
    pair.key.chmod(0o600)
    return pair


def signed_by(authority: Pair, folder: Path, name: str = "client") -> Pair:
    """A certificate that an authority has signed."""
    pair, request = Pair(folder / f"{name}.pem", folder / f"{name}.key"), folder / f"{name}.csr"
    openssl("req", "-new", *NEW_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
    signer = ("-CA", authority.certificate, "-CAkey", authority.key, "-CAcreateserial")
    openssl("x509", "-req", "-in", request, *signer, "-out", pair.certificate, "-days", 30)
    return pair
