"""The service of a package, as its `service.py` asks for it: the models beside it, and nothing else.

BentoML listens on every address unless it is told otherwise. A package listens on this machine alone, and
answers other machines only with keys, whichever command starts it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from lissom.artifact import MANIFEST_NAME
from lissom.serve import environment

MODELS_NAME = "models"
WHEELS_NAME = "wheels"
KEYS_NAME = "keys.txt"
_KEYS = "LISSOM_KEYS"
_LOOPBACK = "127.0.0.1"
_EVERY_ADDRESS = "0.0.0.0"


def service_of(folder: Path) -> Any:
    """The BentoML service of the models in a package.

    Args:
        folder: Of the package.

    Raises:
        SystemExit: other machines could ask without a key.
    """
    folder = folder.absolute()
    models = sorted(place.parent for place in (folder / MODELS_NAME).glob(f"*/{MANIFEST_NAME}"))
    os.environ[environment.ARTIFACTS] = orjson.dumps([f"{model.name}={model}" for model in models]).decode()
    if (folder / KEYS_NAME).is_file():
        os.environ.setdefault(_KEYS, str(folder / KEYS_NAME))
    default = _EVERY_ADDRESS if os.environ.get("BENTOML_CONTAINERIZED") else _LOOPBACK
    if not os.environ.get(_KEYS):
        check_loopback(_listening(default))

    import bentoml

    from lissom.serve.service import ModelService

    service: Any = ModelService
    service.config["http"] = {"host": default}
    if (folder / WHEELS_NAME).is_dir():  # an image that BentoML makes needs them before it installs
        service.image = bentoml.images.Image(lock_python_packages=False).build_include(WHEELS_NAME)
    return service


def check_loopback(address: str | None) -> None:
    """Refuse to answer other machines, as there are no keys.

    Args:
        address: Where the server listens; None where this process is none.

    Raises:
        SystemExit: others can reach it.
    """
    with contextlib.suppress(ValueError):  # no address: BentoML says so itself
        if address is not None and not ipaddress.ip_address(address).is_loopback:
            raise SystemExit(
                f"{address} can be reached by other machines, and no keys are given\n"
                f"  lissom serve --new-key NAME --keys FILE makes one; then set {_KEYS}=FILE"
            )


def _listening(default: str) -> str | None:
    """Where this process listens: a worker has the socket, its parent was told; None for no server."""
    if "--fd" in sys.argv:
        number = int(sys.argv[sys.argv.index("--fd") + 1])
        with socket.socket(fileno=os.dup(number)) as listener:
            return str(listener.getsockname()[0])
    context = click.get_current_context(silent=True)
    if context is None or "host" not in context.params:
        return None
    return str(context.params["host"] or default)
