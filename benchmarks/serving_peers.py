"""The same small model behind other servers, for `serving.py`: each is started as a process of its own.

uvicorn     a raw ASGI application on bare uvicorn, the model inline: what a server in Python can reach
bentoml     BentoML's own `@api`, with an array in JSON, as its documentation shows it

PEER_MODEL=model.onnx python -m uvicorn serving_peers:app
PEER_MODEL=model.onnx python -m bentoml serve serving_peers:Stock
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime

_OPTIONS = onnxruntime.SessionOptions()
_OPTIONS.intra_op_num_threads = 1
SESSION = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], _OPTIONS, providers=["CPUExecutionProvider"])
INPUT = SESSION.get_inputs()[0].name
OUTPUT = SESSION.get_outputs()[0].name


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Binary tensors of the Open Inference Protocol, without a single check."""
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    length = int(dict(scope["headers"])[b"inference-header-content-length"])
    shape = json.loads(body[:length])["inputs"][0]["shape"]
    tensor = np.frombuffer(body, np.float32, offset=0 if length % 4 else length, count=-1)[-64:]
    logits = SESSION.run([OUTPUT], {INPUT: tensor.reshape(shape)})[0]
    head = json.dumps(
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
    ).encode()
    answer = head + logits.tobytes()
    headers = [
        (b"content-length", str(len(answer)).encode()),
        (b"inference-header-content-length", str(len(head)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


try:
    import bentoml
except ModuleNotFoundError:  # uvicorn alone needs none
    bentoml = None

if bentoml is not None:

    @bentoml.service(name="stock", workers=1)
    class Stock:
        """What the documentation of BentoML shows."""

        @bentoml.api
        def predict(self, x: np.ndarray) -> np.ndarray:
            """One call."""
            found: np.ndarray = SESSION.run([OUTPUT], {INPUT: x.astype(np.float32)})[0]
            return found
