"""API keys: found by their hash, revoked while the server runs, limited by rate."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import RequestError
from lissom.serve.keys import Key, Keys, add_key, read_keys


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_found_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    one, other = add_key(file, "one"), add_key(file, "root", is_admin=True)
    keys = Keys(file)
    found = keys.find(one.encode())
    assert found is not None
    assert (found.name, found.is_admin) == ("one", False)
    assert keys.find(other.encode()).is_admin  # type: ignore[union-attr]
    for wrong in (b"", b"one", one.encode()[:-1], one.encode() + b"x", b"\xff" * 99):
        assert keys.find(wrong) is None


def test_the_file_holds_hashes_only_and_others_may_not_read_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "keys"
    key = add_key(file, "one")
    assert key not in file.read_text()
    assert hashlib.sha256(key.encode()).hexdigest() in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_line_that_is_removed_revokes_its_key_while_the_server_runs(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    one, other = add_key(file, "one"), add_key(file, "other")
    keys = Keys(file, clock=clock)
    lines = file.read_text().splitlines()
    file.write_text(lines[1] + "\n")
    os.utime(file, ns=(1, 1))
    assert keys.find(one.encode()) is not None  # not looked at yet
    clock.now = 2.0
    assert keys.find(one.encode()) is None
    assert keys.find(other.encode()) is not None


def test_a_line_that_is_no_key_is_told_and_the_others_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "keys", Clock()
    one, other = add_key(file, "one"), add_key(file, "other")
    keys = Keys(file, clock=clock)
    lines = file.read_text().splitlines()
    file.write_text(f"no key at all\n{lines[1]}\n")
    clock.now = 2.0
    assert keys.find(other.encode()) is not None
    assert keys.find(one.encode()) is None
    assert "line 1" in caplog.text


@pytest.mark.parametrize("text", ["", "# nobody\n", None])
def test_a_file_that_is_empty_or_gone_revokes_every_key(tmp_path: Path, text: str | None) -> None:
    file, clock = tmp_path / "keys", Clock()
    one = add_key(file, "one")
    before = file.read_text()
    keys = Keys(file, clock=clock)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    clock.now = 2.0
    assert keys.find(one.encode()) is None
    file.write_text(before)
    clock.now = 4.0
    assert keys.find(one.encode()) is not None


def test_a_rate_below_one_lets_one_through_now_and_then(tmp_path: Path) -> None:
    clock = Clock()
    add_key(tmp_path / "keys", "one")
    keys = Keys(tmp_path / "keys", per_second=0.1, clock=clock)
    (key,) = read_keys(tmp_path / "keys")
    assert keys.wait(key) == 0.0
    assert keys.wait(key) == pytest.approx(10.0)
    clock.now += 10.1
    assert keys.wait(key) == 0.0


@pytest.mark.parametrize("text", ["", "# nothing\n", "one\n", "one abc\n", "a b c d\n", "\xff"])
def test_what_is_no_file_of_keys_is_refused_with_what_to_type(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError) as caught:
        read_keys(file)
    assert caught.value.hint


def test_names_are_there_once(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "one")
    with pytest.raises(RequestError, match="has a key called 'one'"):
        add_key(file, "one")
    with pytest.raises(RequestError, match="no name of a key"):
        add_key(file, "a b")
    line = file.read_text()
    file.write_text(line + line)
    with pytest.raises(RequestError, match="line 2"):
        read_keys(file)


def test_comments_and_a_missing_line_end_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\none {'a' * 64}")
    add_key(file, "two")
    assert [key.name for key in read_keys(file)] == ["one", "two"]


@given(gaps=st.lists(st.floats(0, 0.5), min_size=1, max_size=200), rate=st.floats(1, 50))
def test_no_holder_asks_more_often_than_the_rate_and_one_burst(gaps: list[float], rate: float) -> None:
    clock = Clock()
    keys = Keys.__new__(Keys)
    keys._per_second, keys._clock, keys._buckets = rate, clock, {}
    key, taken = Key("one", b"", False), 0
    for gap in gaps:
        clock.now += gap
        wait = keys.wait(key)
        assert wait >= 0
        taken += wait == 0
    assert taken <= 2 * rate + rate * clock.now + 1


def test_who_waits_as_long_as_told_may_ask(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    add_key(file, "one")
    keys = Keys(file, per_second=1.0, clock=clock)
    (key,) = read_keys(file)
    assert [keys.wait(key) for _ in range(2)] == [0.0, 0.0]
    wait = keys.wait(key)
    assert wait == pytest.approx(1.0)
    clock.now += wait
    assert keys.wait(key) == 0.0
