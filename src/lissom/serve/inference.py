"""The requests that call a model: tensors, raw samples, and why it answered as it did.

Large bodies are read and written in a thread, so that health is answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from lissom.errors import RequestError
from lissom.runtime.finiteness import check_finite
from lissom.runtime.preprocess import prepare_inputs
from lissom.serve.answers import LARGE, Answer, json_answer, warning_headers
from lissom.serve.bodies import BINARY_HEADER, Receive, Scope, parse_object, read_body, split_binary
from lissom.serve.calling import computed, deadline_of
from lissom.serve.explanation import explain
from lissom.serve.prediction import predict_response, raw_rows
from lissom.serve.protocol import InferRequest, infer_request, infer_response, raw_request
from lissom.serve.repository import VERSION, ServedModel
from lissom.serve.uploads import media_type, uploaded

Found = TypeVar("Found")


async def infer(model: ServedModel, scope: Scope, receive: Receive) -> Answer:
    """Tensors by the Open Inference Protocol.

    What small models are asked takes no thread, no closure and as few coroutines as can be.
    """
    scheduler, since = model.scheduler, asyncio.get_running_loop().time()
    scheduler.refuse_if_full()
    with model.users:
        body = await read_body(scope, receive)
        if len(body) < LARGE:
            request = _read_infer(scope, body, model)
        else:
            request = await asyncio.to_thread(_read_infer, scope, body, model)
        deadline = deadline_of(scope, since, request.timeout)
        if model.is_inline:
            outputs = await scheduler.submit(request.inputs, deadline=deadline)
        else:
            outputs = await computed(model, request.inputs, deadline, receive)
    size = sum([outputs[name].nbytes for name, in_binary in request.outputs.items() if not in_binary])
    if size < LARGE:
        content, json_length = infer_response(request, outputs, model.name, VERSION)
    else:
        content, json_length = await asyncio.to_thread(infer_response, request, outputs, model.name, VERSION)
    if json_length is None:
        return Answer(200, content)
    header = ((BINARY_HEADER, b"%d" % json_length),)
    return Answer(200, content, header, b"application/octet-stream")


async def predict(model: ServedModel, scope: Scope, receive: Receive) -> Answer:
    """Raw samples in, labels and scores out."""
    model.scheduler.refuse_if_full()
    deadline = deadline_of(scope, asyncio.get_running_loop().time())
    with model.users:
        inputs, warnings = await _raw_inputs(model, scope, receive)
        outputs = await computed(model, inputs, deadline, receive)

    def answer() -> Answer:
        document = predict_response(outputs, model.manifest, model=model.name, warnings=warnings)
        return json_answer(document, headers=warning_headers(document["warnings"]))

    return await _perhaps_in_thread(sum(array.nbytes for array in outputs.values()), answer)


async def explained(model: ServedModel, scope: Scope, receive: Receive) -> Answer:
    """Which parts of one raw sample its answer hangs on; one sample at a time, in batches between others'."""
    loop = asyncio.get_running_loop()
    deadline = deadline_of(scope, loop.time())

    def call(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        work = computed(model, batch, deadline, receive)
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    with model.users:
        inputs, warnings = await _raw_inputs(model, scope, receive)
        async with model.explaining:
            document = await asyncio.to_thread(explain, model, inputs, call)
    return json_answer(document | {"warnings": warnings}, headers=warning_headers(warnings))


async def _raw_inputs(
    model: ServedModel, scope: Scope, receive: Receive
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What the model takes, from JSON rows, an image or a text, and what is odd about it.

    Pictures are brought into the range of the model here, so that theirs is never odd.

    Raises:
        RequestError: the body is not what the model takes, or is odd where that is refused.
    """
    body, kind = await read_body(scope, receive), media_type(scope)
    checked = model.checked_inputs

    def read() -> tuple[dict[str, np.ndarray], list[str]]:
        if kind is not None:
            return prepare_inputs(uploaded(body, kind, model), model.manifest, checked), []
        raw = raw_rows(parse_object(body), model.manifest, checked)
        inputs = prepare_inputs(raw, model.manifest, checked)
        warnings = model.input_check.warnings(raw) if model.range_check != "off" else []
        if warnings and model.range_check == "refuse":
            raise RequestError(warnings[0])
        return inputs, warnings

    return await (_perhaps_in_thread(len(body), read) if kind is None else asyncio.to_thread(read))


def _read_infer(scope: Scope, body: bytes, model: ServedModel) -> InferRequest:
    document, binary = split_binary(scope, body)
    signature, checked = model.manifest.signature, model.checked_inputs
    if binary is not None and not document:
        request = raw_request(signature, binary)
    elif binary is not None:
        request = model.heads.request(document, binary)
    else:
        request = infer_request(parse_object(document), signature, checked=checked)
    check_finite(request.inputs, checked, signature)
    return request


async def _perhaps_in_thread(size: int, work: Callable[[], Found]) -> Found:
    """What `work` gives; called in a thread when it handles much."""
    return work() if size < LARGE else await asyncio.to_thread(work)
