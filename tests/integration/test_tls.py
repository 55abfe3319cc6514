"""A server with TLS, for real: what it agrees on, and whom it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.serve.authority import AUTHORITY, Pair, needs_openssl, self_signed, signed_by

import lissom

pytestmark = [needs_openssl, pytest.mark.timeout(120)]
REFUSED = "HANDSHAKE_FAILURE|ALERT_PROTOCOL_VERSION|EOF"
"""A server on uvloop closes the connection in the place of an alert."""
BODY = json.dumps({"inputs": {"image": [[[[0, 1], [2, 3]]]]}})


class Server(NamedTuple):
    """Where a server with TLS is, and the certificate that it shows."""

    port: int
    pair: Pair

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.pair.certificate))

    def asked(self, context: ssl.SSLContext) -> tuple[int, bytes, tuple[str, str, int] | None]:
        """Status, body and cipher of one prediction."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        with contextlib.closing(connection):
            connection.request("POST", "/predict/tiny", BODY)
            response = connection.getresponse()
            return response.status, response.read(), connection.sock.cipher()


@contextlib.contextmanager
def serving(folder: Path, pair: Pair, *words: object) -> Iterator[Server]:
    artifact = tiny_onnx_artifact(folder / "tiny")
    files = ("--tls-cert", pair.certificate, "--tls-key", pair.key)
    command = ["serve", artifact.path, "--port", "0", "--threads", "1", *files, *words]
    process = subprocess.Popen(
        [sys.executable, "-m", "lissom", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving "):
                break
        assert lines, "the server said nothing"
        assert " at https://127.0.0.1:" in lines[-1], "".join(lines)
        yield Server(int(lines[-1].split(" (")[0].rpartition(":")[2]), pair)
    finally:
        process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
        process.stderr.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    with serving(folder, self_signed(folder)) as server:
        yield server


def test_a_client_that_trusts_the_certificate_is_answered(server: Server) -> None:
    status, body, cipher = server.asked(server.context())
    assert (status, json.loads(body)["model"]) == (200, "tiny")
    assert cipher[1] == "TLSv1.3"


def test_tls_1_2_agrees_on_authenticated_encryption_with_keys_of_the_moment(server: Server) -> None:
    context = server.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    name, version, bits = server.asked(context)[2]
    assert version == "TLSv1.2"
    assert name.startswith("ECDHE-")
    assert "GCM" in name or "CHACHA20" in name
    assert bits >= 128


@pytest.mark.parametrize("ciphers", ["ECDHE+AES+SHA1", "ECDHE+AES+SHA256:!AESGCM", "AES128-GCM-SHA256"])
def test_older_ciphers_are_refused(server: Server, ciphers: str) -> None:
    context = server.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError, match=REFUSED):
        server.asked(context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(server: Server) -> None:
    context = server.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the server that refuses
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=REFUSED):
        server.asked(context)


def test_plain_http_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/v2/health/ready")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            connection.getresponse()


def test_a_client_that_does_not_know_the_certificate_does_not_trust_it(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        server.asked(ssl.create_default_context())


def test_the_client_of_lissom_asks_over_tls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.pair.certificate))
    with lissom.Client(f"https://localhost:{server.port}") as client:
        assert client.ready("tiny")
        assert client.predict(json.loads(BODY)["inputs"], model="tiny")["model"] == "tiny"


def test_where_clients_must_show_a_certificate_others_are_not_answered(tmp_path: Path) -> None:
    authority = self_signed(tmp_path, "authority", extensions=AUTHORITY)
    stranger = self_signed(tmp_path, "stranger")
    client = signed_by(authority, tmp_path)
    with serving(tmp_path, self_signed(tmp_path), "--tls-ca", authority.certificate) as server:
        context = server.context()
        context.load_cert_chain(*client)
        assert server.asked(context)[0] == 200
        for shown in (None, stranger):
            context = server.context()
            if shown is not None:
                context.load_cert_chain(*shown)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                server.asked(context)


def test_a_certificate_that_has_expired_ends_the_command_before_anything_starts(tmp_path: Path) -> None:
    artifact, pair = tiny_onnx_artifact(tmp_path / "tiny"), self_signed(tmp_path, days=-1)
    command = ["serve", artifact.path, "--tls-cert", pair.certificate, "--tls-key", pair.key]
    done = subprocess.run(
        [sys.executable, "-m", "lissom", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has expired" in done.stderr
