"""Numbers as people read them; only the pages round."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lissom.report.schema import Interval

ABSENT = "–"
MINUS = "−"
NO_BREAK = "\u00a0"
NO_NOISE_DB = 200.0
"""What stands for the ratio of a model without noise; its negative for one whose outputs are not finite."""
_ABBREVIATIONS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1": "F1", "pearson": "Pearson’s r"}
_METRICS = (
    "accuracy",
    "top",
    "f1",
    "precision",
    "recall",
    "calibration_error",
    "negative_log_likelihood",
    "r2",
    "pearson",
    "mae",
    "rmse",
    "token_accuracy",
    "perplexity",
    "cross_entropy",
    "bits_per_token",
)
"""How the names of metrics begin, in the order in which they are shown."""
_LOWER_IS_BETTER = {
    "bits_per_token",
    "calibration_error",
    "cross_entropy",
    "mae",
    "negative_log_likelihood",
    "perplexity",
    "rmse",
}


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never with an exponent, with a true minus sign.

    >>> [significant(value) for value in (0.012345, 9.999, 123.4, -0.5, 12_345.6)]
    ['0.0123', '10.0', '123', '−0.500', '12,346']
    """
    if not math.isfinite(value):
        return ABSENT
    if abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{Decimal(f'{value:#.{digits}g}'):f}".rstrip(".")
    return text.replace("-", MINUS)


def size(num_bytes: int) -> str:
    r"""A number of bytes in decimal units.

    >>> size(812), size(26_731), size(1_234_567)
    ('812\xa0B', '26.7\xa0kB', '1.23\xa0MB')
    """
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{num_bytes if unit == 'B' else significant(value)}{NO_BREAK}{unit}"


def milliseconds(value: float) -> str:
    r"""A duration in milliseconds.

    >>> milliseconds(0.01234)
    '0.0123\xa0ms'
    """
    return f"{significant(value)}{NO_BREAK}ms"


def times(ratio: float) -> str:
    """A ratio.

    >>> times(6.123)
    '6.12×'
    """
    return f"{significant(ratio)}×"


def size_change(ratio: float) -> tuple[float, str]:
    """How many times smaller or larger a model became, from its size before over that after.

    >>> size_change(4.8), size_change(0.8)
    ((4.8, 'smaller'), (1.25, 'larger'))
    """
    return (ratio, "smaller") if ratio >= 1 else (1 / ratio, "larger")


def points(share: float, *, signed: bool = False) -> str:
    """A difference of two shares, in points, to a tenth.

    >>> points(-0.00312), points(0.0041, signed=True), points(-0.0001)
    ('−0.3', '+0.4', '0.0')
    """
    value = round(share * 100, 1) + 0.0
    return f"{value:{'+' if signed and value else ''}.1f}".replace("-", MINUS)


def percent(share: float) -> str:
    r"""A share as a percentage, to a tenth.

    >>> percent(0.97186)
    '97.2\xa0%'
    """
    return f"{share * 100:.1f}{NO_BREAK}%".replace("-", MINUS)


def decibel(ratio: float) -> str:
    r"""A ratio in decibel, to a tenth.

    >>> decibel(27.64)
    '27.6\xa0dB'
    """
    return f"{ratio:.1f}{NO_BREAK}dB".replace("-", MINUS)


def listed(words: Sequence[str]) -> str:
    """Words with commas, and “and” before the last.

    >>> listed(["a", "b", "c"]), listed(["a", "b"]), listed([])
    ('a, b and c', 'a and b', '')
    """
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def noise_words(sqnr_db: float) -> str:
    r"""A signal-to-noise ratio.

    >>> noise_words(27.64), noise_words(200.0), noise_words(-200.0)
    ('27.6\xa0dB', 'no noise', 'not finite')
    """
    if abs(sqnr_db) < NO_NOISE_DB:
        return decibel(sqnr_db)
    return "no noise" if sqnr_db > 0 else "not finite"


def noisy_layers(layers: Sequence[Mapping[str, Any]], most: int = 3) -> str:
    r"""The first of the notes `worst_layers`, with the noise that each adds alone.

    >>> noisy_layers([{"name": "conv1", "sqnr_db": 12.34}, {"name": "fc", "sqnr_db": 20.0}])
    'conv1 (12.3\xa0dB) and fc (20.0\xa0dB)'
    """
    return listed([f"{layer['name']} ({noise_words(layer['sqnr_db'])})" for layer in layers[:most]])


def between(interval: Interval, write: Callable[[float], str] = significant) -> str:
    r"""The ends of an interval; a unit is written once.

    >>> from lissom.report.schema import Interval
    >>> interval = Interval(value=2, low=1.5, high=2.5)
    >>> between(interval), between(interval, milliseconds)
    ('1.50 to 2.50', '1.50 to 2.50\xa0ms')
    """
    low, high = write(interval.low), write(interval.high)
    return f"{low.partition(NO_BREAK)[0]} to {high}"


def negated(interval: Interval) -> Interval:
    """A drop as a gain.

    >>> from lissom.report.schema import Interval
    >>> negated(Interval(value=-1, low=-3, high=2))
    Interval(value=1.0, low=-2.0, high=3.0)
    """
    return type(interval)(value=-interval.value, low=-interval.high, high=-interval.low)


def moment(text: str) -> str:
    """A time in ISO 8601 to the minute, as UTC; any other text as it is.

    >>> moment("2026-02-03T12:04:05.123+00:00"), moment("soon")
    ('2026-02-03 12:04 UTC', 'soon')
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.astimezone(UTC) if found.tzinfo else found:%Y-%m-%d %H:%M} UTC"


def count(number: int, one: str, many: str = "") -> str:
    r"""A number and its noun.

    >>> count(1, "sample"), count(1234, "sample")
    ('1\xa0sample', '1,234\xa0samples')
    """
    return f"{number:,}{NO_BREAK}{one if number == 1 else many or one + 's'}"


def shortened(text: str, limit: int) -> str:
    """`text`, cut with an ellipsis when it is longer than `limit`.

    >>> shortened("quantize", 5)
    'quan…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(value: Any, key: str = "") -> str:
    r"""One value of a note or of the environment, in words.

    >>> plain(True), plain(None), plain(["avx2", "fma"]), plain(2_000_000, "memory_bytes"), plain(0.123456)
    ('yes', 'unknown', 'avx2, fma', '2.00\xa0MB', '0.123')
    """
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case int():
            return size(value) if key.endswith("bytes") else f"{value:,}".replace("-", MINUS)
        case float():
            return significant(value)
        case list() | tuple():
            return ", ".join(plain(item) for item in value) or "none"
        case Mapping():
            return ", ".join(f"{name} {plain(item, name)}" for name, item in value.items()) or "none"
    return str(value)


def metric_title(name: str) -> str:
    """The name of a metric in words.

    >>> [metric_title(name) for name in ("top_5_accuracy", "f1_macro", "rmse_0", "r2")]
    ['top-5 accuracy', 'F1, macro', 'RMSE 0', 'R²']
    """
    name, _, average = re.sub(r"_(macro|weighted)$", r"/\1", name).partition("/")
    name = re.sub(r"^top_(\d+)_", r"top-\1 ", name).replace("log_likelihood", "log-likelihood")
    words = " ".join(_ABBREVIATIONS.get(word, word) for word in name.split("_"))
    return f"{words}, {average}" if average else words


def metric_rank(name: str) -> tuple[int, str]:
    """Where a metric stands among others: those we know in their usual order, then the others by name.

    >>> sorted(["own", "recall_macro", "mae_0", "mae", "accuracy"], key=metric_rank)
    ['accuracy', 'recall_macro', 'mae', 'mae_0', 'own']
    """
    found = (place for place, known in enumerate(_METRICS) if name == known or name.startswith(f"{known}_"))
    return next(found, len(_METRICS)), name


def lower_is_better(name: str) -> bool:
    """True for a metric of errors.

    >>> lower_is_better("mae_0"), lower_is_better("accuracy")
    (True, False)
    """
    return re.sub(r"_\d+$", "", name) in _LOWER_IS_BETTER


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    r"""Every leaf of nested mappings: where it is, and its value in words.

    >>> list(flat({"machine": {"memory_bytes": 2_000_000}, "torch": "2.13"}))
    [('machine memory', '2.00\xa0MB'), ('torch', '2.13')]
    """
    for key, value in tree.items():
        words = f"{above} {str(key).removesuffix('_bytes').replace('_', ' ')}".strip()
        if isinstance(value, Mapping) and value:
            yield from flat(value, words)
        else:
            yield words, plain(value, str(key))
