"""Request bodies: the limits that hold before anything is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lissom.errors import RequestError
from lissom.serve.bodies import MAX_LISTS, MAX_NESTING, parse_object

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
