"""How outcomes look: text for people, and the further keys of the JSON document."""

from __future__ import annotations

from lissom.cli.views.benchmarks import asked, bench_planned, benched, compared, swept
from lissom.cli.views.measurements import (
    noise_measured,
    noise_planned,
    sensitivity_measured,
    sensitivity_planned,
    verified,
)
from lissom.cli.views.models import (
    evaluated,
    examined,
    executed,
    inspected,
    key_made,
    listed,
    predicted,
    served,
)
from lissom.cli.views.runs import (
    checked,
    cleaned,
    estimated,
    finished,
    prune_planned,
    quantize_planned,
    reported,
    reported_several,
)
from lissom.cli.views.words import keyword_arguments, kwarg_options

__all__ = [
    "asked",
    "bench_planned",
    "benched",
    "checked",
    "cleaned",
    "compared",
    "estimated",
    "evaluated",
    "examined",
    "executed",
    "finished",
    "inspected",
    "key_made",
    "keyword_arguments",
    "kwarg_options",
    "listed",
    "noise_measured",
    "noise_planned",
    "predicted",
    "prune_planned",
    "quantize_planned",
    "reported",
    "reported_several",
    "sensitivity_measured",
    "sensitivity_planned",
    "served",
    "swept",
    "verified",
]
