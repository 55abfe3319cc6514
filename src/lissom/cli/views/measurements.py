"""How measurements look: sensitivities, parity and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lissom.cli.output import Outcome, table
from lissom.cli.views.words import command, duration
from lissom.report.wording import NO_BREAK, points, shortened

if TYPE_CHECKING:
    from lissom.compress.layer_noise import LayerNoise, NoisePlan, NoisyLayer
    from lissom.compress.sensitivity import GroupTrials, Plan, Sensitivity
    from lissom.errors import LissomError
    from lissom.export.bisection import Divergence
    from lissom.export.verification import Parity


def sensitivity_planned(plan: Plan) -> Outcome:
    """A dry run of a sensitivity: its groups, and how long they would take."""
    rows = [
        [group.name, str(len(group.layers)), " -> ".join(map(str, group.channels)), str(len(group.missing))]
        for group in plan.groups
    ]
    lines = table(["group", "layers", "channels", "to measure"], rows, right=[1, 3])
    number = sum(len(group.missing) for group in plan.groups)
    lines += ["", f"{number} to measure on {plan.runtime}, about {duration(plan.seconds)}"]
    lines.append("nothing was written")
    groups = [group._asdict() for group in plan.groups]
    return Outcome(lines, extra={"runtime": plan.runtime, "groups": groups, "seconds": plan.seconds})


def sensitivity_measured(found: Sensitivity, folder: Path) -> Outcome:
    """What every group costs and saves, those first that can go cheaply."""
    from lissom.report.sensitivity_frame import HTML_FILE, JSON_FILE
    from lissom.report.sensitivity_page import summary

    shares = [f"{trial.share:.0%}" for trial in found.groups[0].shares]
    header = ["group", "layers", "channels", *(part for share in shares for part in (f"at {share}", "saved"))]
    rows = [
        [
            shortened(group.name, 32),
            str(len(group.layers)),
            " -> ".join(str(width) for width in _channels(group)),
            *(
                part
                for trial in group.shares
                for part in (f"{-100 * trial.drop:+.1f}", f"{1 - trial.latency_share:.0%}")
            ),
        ]
        for group in found.groups
    ]
    lines = table(header, rows, right=[1, *range(3, len(header))])
    lines += ["", summary(found).replace(NO_BREAK, " ")]
    lines += [f"points of {found.score_name}, without training; latency saved on {found.runtime}", ""]
    lines += [f"page  {folder / HTML_FILE}", f"json  {folder / JSON_FILE}"]
    extra = {key: value for key, value in found.document().items() if key != "schema"}
    return Outcome(lines, out=folder, extra=extra)


def noise_planned(plan: NoisePlan) -> Outcome:
    """A dry run of a sensitivity to int8: its layers, and how long they would take."""
    rows = [
        [
            layer.name,
            layer.op_type,
            f"{layer.num_weights:,}",
            "on disk" if layer.is_measured else "to measure",
        ]
        for layer in plan.layers
    ]
    number = sum(not layer.is_measured for layer in plan.layers)
    lines = table(["layer", "op", "weights", "state"], rows, right=[2])
    lines += ["", f"{number} of {len(rows)} layers to measure, about {duration(plan.seconds)}"]
    lines.append("nothing was written")
    layers = [layer._asdict() for layer in plan.layers]
    return Outcome(lines, extra={"layers": layers, "seconds": plan.seconds})


def noise_measured(found: LayerNoise, folder: Path, words: Sequence[str]) -> Outcome:
    """What every layer costs in int8 alone, the noisiest first.

    Args:
        found: The layers.
        folder: Of the page and the JSON.
        words: Model, data and options from which `quantize` would start.
    """
    from lissom.report.layer_noise_page import summary
    from lissom.report.sensitivity_frame import HTML_FILE, JSON_FILE

    header = ["layer", "op", "weights", "SQNR dB", "agreement %"]
    header += [] if found.score is None else ["drop, points"]
    rows = [_noise_row(layer) for layer in found.layers]
    lines = table(header, rows, right=range(2, len(header)))
    lines += ["", summary(found).replace(NO_BREAK, " "), ""]
    lines += [f"page  {folder / HTML_FILE}", f"json  {folder / JSON_FILE}"]
    worst = ["--exclude", found.layers[0].name] if len(found.layers) > 1 else []
    lines.append(f"next  {command('quantize', *words, *worst)}")
    extra = {key: value for key, value in found.document().items() if key != "schema"}
    return Outcome(lines, out=folder, extra=extra)


def verified(
    parities: Sequence[Parity],
    allow: Sequence[str],
    divergence: Divergence | LissomError | None = None,
    random: Sequence[str] = (),
) -> Outcome:
    """Parity of two artifacts as a table and a gate, and where they part, or why that is not known.

    Args:
        parities: One an output.
        allow: Gates that may fail.
        divergence: Where they part, or what kept us from looking; None where nothing can be compared.
        random: Operators of either that draw random numbers.
    """
    from lissom.report.schema import Gate

    rows = [
        [
            p.output,
            _figure(p.max_abs_error, ".3g"),
            _figure(p.mean_abs_error, ".3g"),
            _figure(p.max_relative_error, ".2g"),
            _figure(p.mean_relative_error, ".2g"),
            _figure(p.cosine, ".6f"),
            _decibel(p.sqnr_db),
            f"{p.top1_agreement:.2%}",
            "pass" if p.passed else "FAIL",
        ]
        for p in parities
    ]
    header = ["output", "max error", "mean error", "max rel.", "mean rel.", "cosine", "SQNR", "top-1", ""]
    passed = all(parity.passed for parity in parities)
    worst = max(parities, key=lambda parity: (not parity.passed, parity.max_abs_error or 0.0))
    gate = Gate(
        name="parity",
        state="pass" if passed else "fail",
        measured=f"max error {_figure(worst.max_abs_error, '.3g')}" + _nonfinite(worst),
        limit=worst.limit,
        reason=f"output {worst.output!r}",
        allowed="parity" in allow,
    )
    lines = [*table(header, rows, right=range(1, 8)), "", f"limit: {worst.limit}"]
    lines += [f"output {p.output!r}{_nonfinite(p)}" for p in parities if p.nonfinite]
    lines += [] if passed else [*_drawing(random), *_parting(divergence)]
    where = divergence._asdict() if isinstance(divergence, tuple) else None
    extra = {"outputs": [parity._asdict() for parity in parities], "divergence": where, "random": [*random]}
    return Outcome(lines, passed or gate.allowed, gates=[gate], extra=extra)


def _nonfinite(parity: Parity) -> str:
    """How many values are NaN or infinite on one side alone; empty where none is."""
    number = parity.nonfinite
    return f", {number:,} values are NaN or infinite in one of both alone" if number else ""


def _drawing(random: Sequence[str]) -> list[str]:
    """Why two calls of one model differ; nothing where they do not."""
    if not random:
        return []
    more = f" and {len(random) - 3} more" if len(random) > 3 else ""
    return [
        f"random numbers are drawn by {', '.join(random[:3])}{more}: two calls of such a model differ, and "
        "how far the copy does cannot be told from that"
    ]


def _parting(found: Divergence | LissomError | None) -> list[str]:
    if found is None:
        return ["first divergence: not found; no tensor inside can be compared, or none alone is beyond it"]
    if not isinstance(found, tuple):
        return [f"first divergence: not looked for; {found.message}"]
    tensor = f"{found.operator}, tensor {found.tensor}"
    where = f"{found.layer} ({tensor})" if found.layer else tensor
    before = f"{found.previous} before it agrees" if found.previous else "it reads the inputs"
    noise = "" if found.sqnr_db is None else f"SQNR {_decibel(found.sqnr_db)}, "
    error = f"{noise}max error {_figure(found.max_abs_error, '.3g')}"
    return [f"first divergence: {where}", f"  {error}; {before}; {found.checked} tensors compared"]


def _noise_row(layer: NoisyLayer) -> list[str]:
    from lissom.report.layer_noise_page import noise

    drop = [] if layer.drop is None else [points(layer.drop)]
    agreement = f"{100 * layer.agreement:.1f}"
    return [layer.name, layer.op_type, f"{layer.num_weights:,}", noise(layer), agreement, *drop]


def _channels(group: GroupTrials) -> list[int]:
    """Channels of the whole model, and after each share."""
    return [group.shares[0].channels[0], *(trial.channels[1] for trial in group.shares)]


def _figure(value: float | None, form: str) -> str:
    return "not finite" if value is None else f"{value:{form}}"


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"
