"""Which files of TLS are taken, and what a server with them agrees on."""

from __future__ import annotations

import logging
import socket
import ssl
from pathlib import Path

import pytest
from tests.unit.serve.authority import AUTHORITY, Pair, needs_openssl, openssl, self_signed, signed_by

from lissom.errors import RequestError
from lissom.serve import certificates, environment, launch
from lissom.serve.certificates import CIPHERS, check_tls
from lissom.serve.environment import Settings
from lissom.serve.launch import Address, child_command, child_environment, warn_of_clear_text

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return self_signed(tmp_path_factory.mktemp("certificates"))


def test_without_files_there_is_no_tls() -> None:
    assert check_tls(None, None) is None


def test_a_certificate_and_its_key_are_taken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair.key.parent)
    found = check_tls(Path(pair.certificate.name), Path(pair.key.name))
    assert found is not None
    assert (found.certificate, found.key, found.client_authority) == (*pair, None)


def test_bentoml_is_told_the_files_and_sound_ciphers(pair: Pair, tmp_path: Path) -> None:
    found = check_tls(*pair, pair.certificate)
    command = child_command(Address("127.0.0.1", 1, is_tls=True), tmp_path, found)
    told = {word: command[place + 1] for place, word in enumerate(command) if word.startswith("--ssl")}
    assert told == {
        "--ssl-certfile": str(pair.certificate),
        "--ssl-keyfile": str(pair.key),
        "--ssl-ca-certs": str(pair.certificate),
        "--ssl-cert-reqs": "2",
        "--ssl-ciphers": CIPHERS,
        "--ssl-version": "17",
    }
    assert not [word for word in child_command(Address("127.0.0.1", 1), tmp_path) if "ssl" in word]


def test_only_authenticated_encryption_with_keys_of_the_moment_is_agreed_on() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    names = [suite["name"] for suite in context.get_ciphers()]
    assert len(names) >= 6
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert all("GCM" in name or "CHACHA20" in name for name in names)
    assert {suite["protocol"] for suite in context.get_ciphers()} <= {"TLSv1.2", "TLSv1.3"}


@pytest.mark.parametrize("missing", ["--tls-cert", "--tls-key"])
def test_one_file_without_the_other_is_refused(pair: Pair, missing: str) -> None:
    certificate, key = (None, pair.key) if missing == "--tls-cert" else (pair.certificate, None)
    with pytest.raises(RequestError, match=f"{missing} is not given"):
        check_tls(certificate, key)


def test_an_authority_alone_is_refused(pair: Pair) -> None:
    with pytest.raises(RequestError, match="--tls-cert and --tls-key is not given"):
        check_tls(None, None, pair.certificate)


def test_a_file_that_is_not_there_or_something_else_is_refused(pair: Pair, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(RequestError, match=r"--tls-cert .*other cannot be read: No such file"):
        check_tls(other, pair.key)
    other.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="it is no text"):
        check_tls(pair.certificate, other)
    other.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(RequestError, match="cannot be used"):
        check_tls(other, pair.key)
    with pytest.raises(RequestError, match=r"--tls-ca .*other is damaged"):
        check_tls(*pair, other)
    with pytest.raises(RequestError, match=r"--tls-cert .* holds no certificate"):
        check_tls(pair.key, pair.key)
    with pytest.raises(RequestError, match=r"--tls-key .* holds no private key"):
        check_tls(pair.certificate, pair.certificate)
    with pytest.raises(RequestError, match=r"--tls-ca .* holds no certificate"):
        check_tls(*pair, pair.key)


def test_a_key_of_another_certificate_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not the key of .*server\.pem") as caught:
        check_tls(pair.certificate, self_signed(tmp_path, "other").key)
    assert "openssl" in caught.value.hint


def test_an_encrypted_key_is_refused_before_anything_asks_for_its_password(
    pair: Pair, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    with pytest.raises(RequestError, match="is encrypted") as caught:
        check_tls(pair.certificate, locked)
    assert f"openssl pkey -in {locked}" in caught.value.hint


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has expired") as caught:
        check_tls(*self_signed(tmp_path, days=-1))
    assert caught.value.hint.startswith("renew it")


def test_a_certificate_for_clients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is none of a server"):
        check_tls(*self_signed(tmp_path, extensions=("extendedKeyUsage=clientAuth",)))


def test_a_certificate_of_an_authority_is_taken_with_its_chain(tmp_path: Path) -> None:
    authority = self_signed(tmp_path, "authority", extensions=AUTHORITY)
    server = signed_by(authority, tmp_path, "host")
    chain = tmp_path / "chain.pem"
    chain.write_text(server.certificate.read_text() + authority.certificate.read_text())
    for file in (server.certificate, chain):
        assert check_tls(file, server.key) is not None


def test_one_file_may_hold_both(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(pair.key.read_text() + pair.certificate.read_text())
    both.chmod(0o600)
    assert check_tls(both, both) is not None


def test_what_will_soon_be_wrong_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates.log, "propagate", True)
    pair = self_signed(tmp_path, days=3)
    with caplog.at_level(logging.WARNING):
        check_tls(*pair)
        assert ["ends on" in record.message for record in caplog.records] == [True]
        pair.key.chmod(0o644)
        check_tls(*pair)
    assert "chmod 600" in caplog.text


def test_keys_in_the_clear_are_warned_of_where_others_listen(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates.log, "propagate", True)
    with caplog.at_level(logging.WARNING):
        warn_of_clear_text(Address("127.0.0.1", 3000))
        warn_of_clear_text(Address("0.0.0.0", 3000, is_tls=True))
        assert not caplog.records
        warn_of_clear_text(Address("0.0.0.0", 3000))
    assert "0.0.0.0 is answered without TLS" in caplog.text


def test_the_url_says_that_it_is_tls() -> None:
    assert Address("::", 3000, is_tls=True).url == "https://[::1]:3000"
    assert Address("0.0.0.0", 3000, is_tls=True).url == "https://127.0.0.1:3000"


def test_a_server_that_asks_for_certificates_says_by_a_file_that_it_is_ready(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = check_tls(*pair, pair.certificate)
    variables = child_environment(Settings(()), tmp_path, tmp_path / "failure.json")
    is_ready = launch._readiness(Address("127.0.0.1", 1, is_tls=True), tls, tmp_path)
    environment.write_ready()  # without a launcher nothing is written
    assert not is_ready()
    monkeypatch.setenv(environment.READY, variables[environment.READY])
    environment.write_ready()
    assert is_ready()


def test_a_server_that_is_not_there_is_not_ready(pair: Pair, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = Address("127.0.0.1", closed.getsockname()[1], is_tls=True)
    for tls in (None, check_tls(*pair)):
        assert not launch._readiness(address, tls, tmp_path)()
