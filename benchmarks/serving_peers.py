"""The same small model behind other servers, for `serving.py`: each is started as a process of its own.

    uvicorn     a raw ASGI application on bare uvicorn, the model inline, orjson, and the garbage collector
                frozen: what a server in Python can reach one request at a time
    bentoml     BentoML's own `@api`, with an array in JSON, as its documentation shows it
    litserve    LitServe with its defaults, with an array in JSON, as its documentation shows it
    triton      Triton's C++ server and protocol over its Python backend; its ONNX backend is not in the wheel
    beside      the service of lissom with an `@api` added: its routes and BentoML's in one process

Each reads PEER_MODEL=model.onnx. PyTriton and LitServe come from PyPI into environments of their own.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_OPTIONS = onnxruntime.SessionOptions()
_OPTIONS.intra_op_num_threads = 1
orjson = json  # the environments of LitServe and Triton have none, and need none
if os.environ.get("PEER") == "uvicorn":
    import orjson
SESSION = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], _OPTIONS, providers=["CPUExecutionProvider"])
INPUT = SESSION.get_inputs()[0].name
OUTPUT = SESSION.get_outputs()[0].name


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Binary tensors of the Open Inference Protocol, without a single check."""
    if scope["type"] != "http":
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    length = int(dict(scope["headers"])[b"inference-header-content-length"])
    shape = orjson.loads(body[:length])["inputs"][0]["shape"]
    tensor = np.frombuffer(body, np.float32, offset=length)
    logits = SESSION.run([OUTPUT], {INPUT: tensor.reshape(shape)})[0]
    head = orjson.dumps(
        {
            "model_name": "peer",
            "outputs": [
                {
                    "name": OUTPUT,
                    "datatype": "FP32",
                    "shape": list(logits.shape),
                    "parameters": {"binary_data_size": logits.nbytes},
                }
            ],
        }
    )
    answer = head + logits.tobytes()
    headers = [
        (b"content-length", str(len(answer)).encode()),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def computed(x: np.ndarray) -> np.ndarray:
    """One call."""
    found: np.ndarray = SESSION.run([OUTPUT], {INPUT: x.astype(np.float32)})[0]
    return found


def triton_repository(folder: Path, name: str, site: Path) -> None:
    """A repository of Triton with this file as its only model; its Python knows no environment."""
    place = folder / name / "1"
    place.mkdir(parents=True, exist_ok=True)
    paths = [str(site), str(Path(__file__).parent)]
    (place / "model.py").write_text(
        f"import sys\nsys.path[:0] = {paths!r}\nfrom serving_peers import TritonPythonModel\n"
    )
    (folder / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 32\n'
        f'input [{{ name: "{INPUT}", data_type: TYPE_FP32, dims: [1, 8, 8] }}]\n'
        f'output [{{ name: "{OUTPUT}", data_type: TYPE_FP32, dims: [10] }}]\n'
        "dynamic_batching {}\n"
    )


class TritonPythonModel:
    """What Triton's Python backend loads."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """The requests that Triton put together, computed as one batch."""
        import triton_python_backend_utils as backend

        tensors = [backend.get_input_tensor_by_name(one, INPUT).as_numpy() for one in requests]
        logits = computed(np.concatenate(tensors))
        ends = np.cumsum([len(tensor) for tensor in tensors])[:-1]
        return [
            backend.InferenceResponse([backend.Tensor(OUTPUT, np.ascontiguousarray(rows))])
            for rows in np.split(logits, ends)
        ]


def serve_triton(port: int, folder: Path) -> None:
    """The server in PyTriton's wheel, with its own backend and a library of this Python."""
    import sysconfig

    import pytriton

    package = Path(pytriton.__file__).parent
    backends = folder / "backends"
    shutil.copytree(package / "tritonserver" / "backends", backends, dirs_exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    triton_repository(folder / "models", "export", package.parent)
    libraries = [sysconfig.get_config_var("LIBDIR"), str(package.parent / "nvidia_pytriton.libs")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    server = package / "tritonserver" / "bin" / "tritonserver"
    options = {
        "model-repository": folder / "models",
        "backend-directory": backends,
        "http-address": "127.0.0.1",
        "http-port": port,
        "allow-grpc": "false",
        "allow-metrics": "false",
    }
    command = [str(server), *(f"--{name}={value}" for name, value in options.items())]
    os.execv(server, command)


if "litserve" in os.environ.get("PEER", ""):
    import litserve

    class Api(litserve.LitAPI):  # type: ignore[misc]
        """What the documentation of LitServe shows."""

        def setup(self, device: str) -> None:
            """The session is there."""

        def decode_request(self, request):  # LitServe takes an annotation for a schema
            """An array from lists."""
            return np.asarray(request["x"], dtype=np.float32)

        def predict(self, x: np.ndarray) -> np.ndarray:
            """One call."""
            return computed(x)

        def encode_response(self, output: np.ndarray) -> dict[str, Any]:
            """Lists from an array."""
            return {"y": output.tolist()}

    def serve_lit(port: int) -> None:
        """LitServe with its defaults."""
        server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
        server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


if "bentoml" in os.environ.get("PEER", ""):
    import bentoml

    @bentoml.service(name="stock", workers=1)
    class Stock:
        """What the documentation of BentoML shows."""

        @bentoml.api
        def predict(self, x: np.ndarray) -> np.ndarray:
            """One call."""
            return computed(x)


if "beside" in os.environ.get("PEER", ""):
    import bentoml

    from lissom.serve.fast_path import FastService
    from lissom.serve.service import ModelService, application

    @bentoml.service(name="beside", service_class=FastService, workers=1)
    @bentoml.asgi_app(application, path="/", name="models")
    class Beside(ModelService.inner):
        """The service of lissom, with an API in BentoML's own way."""

        bento_paths = (*ModelService.inner.bento_paths, "/stock")

        @bentoml.api(route="/stock")
        def stock(self, x: np.ndarray) -> np.ndarray:
            """One call."""
            return computed(x)


if __name__ == "__main__":
    if sys.argv[1] == "litserve":
        serve_lit(int(sys.argv[2]))
    else:
        serve_triton(int(sys.argv[2]), Path(sys.argv[3]))
