"""TLS of the server: the certificate that it shows, whom it asks for one, and what is agreed on.

TLS 1.2 and 1.3 with keys made for each connection and authenticated encryption; nothing older, which
BentoML's own default would allow. The files are proven before anything starts, by a handshake in memory
between the server as it will be and a client that trusts this one certificate.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path
from typing import Any, NamedTuple

from lissom.errors import RequestError
from lissom.logs import log

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, as OpenSSL writes them; those of TLS 1.3 are all of this kind."""
_HANDSHAKE_STEPS = 8
_FEW_DAYS = 14
_DAY_SECONDS = 86_400
_EXPIRED, _NOT_YET_VALID = 10, 9
_ANYBODY_READS = 0o004


class Tls(NamedTuple):
    """The files of a server with TLS, as `check_tls` gives them.

    Attributes:
        certificate: PEM, the certificate of the server first, then those between it and the root.
        key: PEM, its private key, not encrypted.
        client_authority: PEM, whose certificates clients must show; None where they need none.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def options(self) -> list[str]:
        """What `bentoml serve` is told."""
        words = ["--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)]
        words += ["--ssl-version", str(int(ssl.PROTOCOL_TLS_SERVER)), "--ssl-ciphers", CIPHERS]
        if self.client_authority is not None:
            words += ["--ssl-ca-certs", str(self.client_authority)]
            words += ["--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))]
        return words

    def client_context(self) -> ssl.SSLContext:
        """Of a client on this machine: it trusts this certificate alone, by whatever name it is reached."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def check_tls(certificate: Path | None, key: Path | None, client_authority: Path | None = None) -> Tls | None:
    """The files of TLS, proven; None where none is named.

    Raises:
        RequestError: one is missing, holds something else, they do not belong together, or the certificate
            is of no use now.
    """
    if certificate is None or key is None:
        if certificate is key is client_authority is None:
            return None
        missing = [flag for flag, file in (("--tls-cert", certificate), ("--tls-key", key)) if file is None]
        raise RequestError(
            f"TLS takes a certificate and its key; {' and '.join(missing)} is not given",
            hint="add --tls-cert FILE --tls-key FILE",
        )
    _check_pem(certificate, "CERTIFICATE-----", "--tls-cert", "certificate")
    text = _check_pem(key, "PRIVATE KEY-----", "--tls-key", "private key")
    if "ENCRYPTED" in text:
        raise RequestError(
            f"the key in {key} is encrypted, and the server cannot ask for its password",
            hint=f"openssl pkey -in {key} -out plain.pem && chmod 600 plain.pem; then --tls-key plain.pem",
        )
    if client_authority is not None:
        _check_pem(client_authority, "CERTIFICATE-----", "--tls-ca", "certificate")
    files = [file and file.absolute() for file in (certificate, key, client_authority)]
    found = Tls(*files)  # type: ignore[arg-type]
    _prove(found)
    if key.stat().st_mode & _ANYBODY_READS:
        log.warning("every user of this machine can read the key in %s: chmod 600 %s", key, key)
    return found


def _check_pem(file: Path, marker: str, flag: str, what: str) -> str:
    """The text of a file that holds what its option asks for."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text, as a PEM file is"
        raise RequestError(
            f"{flag} {file} cannot be read: {reason}",
            hint=f"name a PEM file with a {what}, as in {flag} FILE",
        ) from exc
    if f"-----BEGIN {marker}" not in text and f" {marker}" not in text:
        raise RequestError(
            f"{flag} {file} holds no {what} in PEM", hint=f"its file has a line -----BEGIN ... {marker}"
        )
    return text


def _prove(files: Tls) -> None:
    """Let a client of this machine shake hands with the server as it will be.

    Raises:
        RequestError: saying which file is the cause.
    """
    server = _server_context(files)
    try:
        client = files.client_context()
    except ssl.SSLError as exc:
        raise RequestError(f"--tls-cert {files.certificate} is damaged: {_reason(exc)}") from exc
    try:
        ends = _handshake(server, client)
    except ssl.SSLCertVerificationError as exc:
        raise _unusable(files.certificate, exc) from exc
    except ssl.SSLError as exc:
        raise RequestError(
            f"no client can agree with {files.certificate}: {_reason(exc)}",
            hint="make its key with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        ) from exc
    days = (ssl.cert_time_to_seconds(ends["notAfter"]) - time.time()) / _DAY_SECONDS
    if days < _FEW_DAYS:
        log.warning("the certificate in %s ends on %s", files.certificate, ends["notAfter"])


def _server_context(files: Tls) -> ssl.SSLContext:
    """As uvicorn makes it of our options."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise RequestError(
                f"{files.key} is not the key of {files.certificate}",
                hint=f"compare: openssl x509 -noout -pubkey -in {files.certificate}; "
                f"openssl pkey -pubout -in {files.key}",
            ) from exc
        raise RequestError(
            f"{files.certificate} and {files.key} cannot be used: {_reason(exc)}",
            hint="both are PEM files; make them again if they are damaged",
        ) from exc
    if files.client_authority is not None:
        try:
            context.load_verify_locations(files.client_authority)
        except ssl.SSLError as exc:
            raise RequestError(f"--tls-ca {files.client_authority} is damaged: {_reason(exc)}") from exc
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Shake hands in memory; gives the certificate of the server as the client sees it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server)
    answerer = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_HANDSHAKE_STEPS):
        for end in (caller, answerer):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    found: dict[str, Any] = caller.getpeercert() or {}
    return found


def _unusable(certificate: Path, exc: ssl.SSLCertVerificationError) -> RequestError:
    hint = "renew it, then start again"
    if exc.verify_code == _EXPIRED:
        return RequestError(f"the certificate in {certificate} has expired", hint=hint)
    if exc.verify_code == _NOT_YET_VALID:
        return RequestError(
            f"the certificate in {certificate} is not valid yet",
            hint="look at the clock of this machine: date",
        )
    return RequestError(
        f"the certificate in {certificate} is none of a server: {exc.verify_message}",
        hint=f"see: openssl x509 -noout -text -in {certificate}",
    )


def _reason(exc: ssl.SSLError) -> str:
    return (exc.reason or str(exc)).lower().replace("_", " ")
