"""Request bodies: the limits that hold before anything is parsed."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lissom.errors import RequestError
from lissom.serve import bodies
from lissom.serve.bodies import (
    MAX_JSON_BYTES,
    MAX_LISTS,
    MAX_NESTING,
    Refused,
    packed,
    parse_object,
    read_body,
)

TEXTS = st.text(alphabet='[]{}"\\ab,:é\n', max_size=30)
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | TEXTS
DOCUMENTS = st.dictionaries(
    TEXTS, st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)
)


@given(DOCUMENTS)
def test_every_document_is_parsed_as_json_parses_it(document: dict[str, Any]) -> None:
    assert parse_object(json.dumps(document).encode()) == document


@given(text=TEXTS, depth=st.integers(MAX_NESTING - 2, MAX_NESTING + 2))
@example(text="]" * 300, depth=MAX_NESTING + 1)
@example(text='\\"]]]', depth=MAX_NESTING + 1)
@example(text="[" * 300, depth=2)
def test_depth_is_counted_outside_of_texts_only(text: str, depth: int) -> None:
    body = json.dumps({text: 1, "deep": 2})[:-1] + ', "x": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
    if depth > MAX_NESTING:
        with pytest.raises(RequestError, match="nested more than 100"):
            parse_object(body.encode())
    else:
        assert parse_object(body.encode())["deep"] == 2


@pytest.mark.parametrize("offset", [0, 1, 2**16 - 2, 2**16 - 1, 2**16, 2**16 + 1])
def test_depth_and_texts_are_carried_over_the_edges_of_chunks(offset: int) -> None:
    pad = '"' + "[" * offset + '", '
    flat = '{"x": [' + pad + '"' + "]" * 200 + '", 1]}'
    assert parse_object(flat.encode())["x"][-1] == 1
    deep = '{"x": [' + pad + "[" * 100 + "]" * 100 + "]}"
    with pytest.raises(RequestError, match="nested more than 100"):
        parse_object(deep.encode())


def test_wide_documents_are_parsed_up_to_the_number_of_lists() -> None:
    row = b"[1]"
    body = b'{"x": [' + b",".join([row] * (MAX_LISTS - 2)) + b"]}"
    assert len(parse_object(body)["x"]) == MAX_LISTS - 2
    with pytest.raises(RequestError, match="1,000,001 lists and objects"):
        parse_object(body[:-2] + b"," + row + b"]}")


@pytest.mark.parametrize("body", [b'{"x": NaN}', b'{"x": Infinity}', b'{"x": 1e999}', b"{", b"nul", b"\xff"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON"):
        parse_object(body)


def test_json_has_a_limit_below_that_of_tensors() -> None:
    with pytest.raises(Refused, match="binary tensors") as caught:
        parse_object(b'{"x": "' + b"a" * MAX_JSON_BYTES + b'"}')
    assert caught.value.status == 413


def read(chunks: Sequence[bytes | None], headers: dict[bytes, bytes] | None = None) -> bytes:
    """A body that comes in pieces; None never comes."""
    waiting = list(chunks)

    async def receive() -> Any:
        chunk = waiting.pop(0)
        if chunk is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    scope = {"headers": list((headers or {}).items())}
    try:
        return asyncio.run(read_body(scope, receive))
    finally:
        bodies.release(scope)


def test_pieces_are_put_together_and_forgotten() -> None:
    assert read([b"a", b"", b"bc"]) == b"abc"
    assert bodies._bytes_held == 0


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    with pytest.raises(Refused, match="not whole") as caught:
        read([b"a", None, b"c"])
    assert caught.value.status == 408
    assert bodies._bytes_held == 0


@pytest.mark.parametrize("chunks", [[b"abc", b"def", b"g"], [b"abcdef"], [b"abcdef", b"g"]])
def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch, chunks: list[bytes]) -> None:
    monkeypatch.setattr(bodies, "MAX_BYTES_HELD", 5)
    with pytest.raises(Refused, match="are being read") as caught:
        read(chunks)
    assert (caught.value.status, dict(caught.value.headers)[b"retry-after"]) == (503, b"1")
    assert bodies._bytes_held == 0


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (b"gzip", b"gzip"),
        (b"br, GZIP;q=0.5", b"gzip"),
        (b"gzip;q=0", None),
        (b"gzip; q=0.000, deflate;q=0.1", b"deflate"),
        (b"", None),
        (b"br", None),
    ],
)
def test_answers_are_packed_as_the_client_weighs(accepted: bytes, encoding: bytes | None) -> None:
    assert packed(b"abc", {"headers": [(b"accept-encoding", accepted)]})[1] == encoding


@pytest.mark.parametrize(
    "tail", [b"more", gzip.compress(b"more", mtime=0)], ids=["other bytes", "another body"]
)
def test_nothing_may_follow_what_is_packed(tail: bytes) -> None:
    with pytest.raises(Refused, match="not gzip"):
        read([gzip.compress(b"{}") + tail], {b"content-encoding": b"gzip"})
