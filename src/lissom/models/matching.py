"""Which array of the data is which input of a model: by name, never by position.

Two arrays in another order give other answers and no error, so that nothing but a name may say which is
which. The only exception: one array for a model of one input, which can be meant in no other way; it is said
in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lissom.errors import DataError, near
from lissom.logs import log


def match_inputs(
    wanted: Mapping[str, Sequence[object]], found: Mapping[str, Sequence[object]], *, source: str
) -> dict[str, str]:
    """For each input of a model the name of its array, in the order of the model.

    Args:
        wanted: Inputs that a model takes, with the shape of a sample of each; shapes are only shown.
        found: Arrays that there are, with the shape of a sample of each.
        source: Where they come from, for messages.

    Raises:
        DataError: the names are not the same; both sides are listed, and what lies near.
    """
    if wanted.keys() == found.keys():
        return {name: name for name in wanted}
    if len(wanted) == len(found) == 1:
        (input_name,), (name,) = wanted, found
        log.info("%s: its only array %r is taken for the only input %r", source, name, input_name)
        return {input_name: name}
    raise DataError(_mismatch(wanted, found, source), hint=_advice(list(wanted), list(found)))


def _mismatch(
    wanted: Mapping[str, Sequence[object]], found: Mapping[str, Sequence[object]], source: str
) -> str:
    missing = ", ".join(repr(name) for name in wanted if name not in found)
    unknown = ", ".join(repr(name) for name in found if name not in wanted)
    told = [f"{what}: {names}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    return f"the model takes {_shown(wanted)}; {source} has {_shown(found)} ({'; '.join(told)})"


def _shown(shapes: Mapping[str, Sequence[object]]) -> str:
    shown = (f"{name} of shape [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
    return ", ".join(shown) or "nothing"


def _advice(wanted: Sequence[str], names: Sequence[str]) -> str:
    missing = [name for name in wanted if name not in names]
    extra = [name for name in names if name not in wanted]
    if missing and extra:
        return f"arrays are matched by name: for {extra[0]!r} {near(extra[0], missing)}"
    if missing:
        return f"arrays are matched by name: add {', '.join(missing)}"
    return f"leave out {', '.join(extra)}; of an .npz: FILE.npz?inputs={','.join(wanted)}"
