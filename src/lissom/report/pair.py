"""The chosen arm beside the original, looked at once more when both are known.

    batches   latency and throughput by batch size, timed in the same interleaved rounds
    load      the 99th percentile by rate: queries come as MLPerf's Server plans them, each arm is asked at
              shares of what it could do alone, up to more than that; every rate in several turns, so that a
              moment in which the machine is busy meets all rates alike
    flips     what the answers hang on that became wrong or right: each model's own answer, explained by
              covering parts of the input

The first two are asked for in the recipe. What was measured is kept as evidence beside the chosen artifact
and used again, by a key of its own: another latency target does not time all arms again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from lissom.artifact import content_id
from lissom.bench.scenarios import Asked, ask, joined
from lissom.bench.selection import ArmKey
from lissom.bench.statistics import median_latency
from lissom.bench.sweeps import sweep
from lissom.bench.timing import round_order
from lissom.errors import LissomError
from lissom.logs import Progress, log
from lissom.models.attribution import occlusion_maps
from lissom.optional import is_installed
from lissom.recipe import BenchmarkConfig
from lissom.report.answers import flipped
from lissom.report.building import percentile_figures
from lissom.report.evidence import now
from lissom.report.explanations import seconds_covered
from lissom.report.measured_run import Run
from lissom.report.pictures import overlaid, text_of
from lissom.runtime.base import Runtime, open_runtime
from lissom.runtime.machine import host

PAIR_SCHEMA = "lissom.pair/2"
SHARES_OF_CAPACITY = (0.2, 0.4, 0.6, 0.8, 0.95, 1.1)
"""Rates that an arm is asked at, as shares of calls one after the other in its median latency; the last one
shows what happens when it cannot keep up."""
SWEEP_ROUNDS = 12
_TURNS = 4
_ALONE_SECONDS = 0.2
"""How long an arm is asked one query after the other, where the calls that were timed are larger batches."""
_PATIENCE = 2.0
"""Times of `load_seconds` after which a rate that is not kept up with is given up."""
_FLIP_SECONDS = 10.0
"""That explaining flips may take for each arm; those that lost most come first."""
Record = dict[str, Any]


class _Opened(NamedTuple):
    """Arms that are open, and why others are not."""

    runtimes: dict[ArmKey, Runtime]
    failed: dict[ArmKey, str]

    def only(self, *arms: ArmKey) -> _Opened:
        """The same of some arms."""
        return _Opened(
            {arm: self.runtimes[arm] for arm in dict.fromkeys(arms) if arm in self.runtimes},
            {arm: self.failed[arm] for arm in dict.fromkeys(arms) if arm in self.failed},
        )


def look_at_pair(run: Run, *, progress: Progress) -> Record:
    """Measure what the recipe asks for of the pair, or find what was measured before.

    Nothing of it keeps a report from being drawn: what an arm raises is in its figures, and Ctrl-C leaves a
    record that is not complete, which is not used again.
    """
    chosen, original = run.chosen, run.reference_best
    if chosen is None or original is None or not run.complete or not _asked(run):
        return {"complete": True}
    key = content_id({"schema": PAIR_SCHEMA, "measurement": run.measurement, **_wanted(run)})
    artifact = run.by_name[chosen.artifact]
    for record in reversed(artifact.evidence()):
        if record.get("pair") == key and record["complete"]:
            return dict(record)
    found: Record = {"schema": PAIR_SCHEMA, "pair": key, "complete": True, **_wanted(run)}
    try:
        with ExitStack() as stack:
            opened = _opened(run, dict.fromkeys((original, chosen, run.trusted)), stack)
            timed = opened.only(original, chosen)
            found["batches"] = list(_batches(run, timed, progress))
            found["load"] = list(_load(run, timed, progress))
            found["flips"] = _flips(run, opened.runtimes, progress)
    except KeyboardInterrupt:
        return {**found, "complete": False}
    except LissomError as exc:
        log.warning("the chosen model was not looked at again: %s", exc)
        return {"complete": True}
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    found |= {
        "finished": now(),
        "artifact": {"id": artifact.id, "digest": artifact.digest, "name": artifact.name},
    }
    artifact.add_evidence(found, name=f"{host()}-{stamp}-{key[:8]}")
    return found


def estimated_seconds(config: BenchmarkConfig) -> float:
    """About how long the pair takes, without its flips."""
    rounds = min(config.num_rounds, SWEEP_ROUNDS)
    batches = 2 * len(config.batch_sizes) * rounds * config.round_ms / 1e3
    load = 2 * len(SHARES_OF_CAPACITY) * config.load_seconds if config.slo_ms is not None else 0.0
    return batches + load


def _asked(run: Run) -> bool:
    """False where there is nothing to look at."""
    config = run.recipe.benchmark
    explains = is_installed("captum") and bool(flipped(run))
    return bool(config.batch_sizes) or config.slo_ms is not None or explains


def _wanted(run: Run) -> Record:
    """What decides the figures, beside the measurement that chose the arms."""
    config, chosen, original = run.recipe.benchmark, run.chosen, run.reference_best
    assert chosen is not None
    assert original is not None
    loaded = config.slo_ms is not None
    return {
        "arms": [list(arm) for arm in (original, chosen, run.trusted)],
        "batch_sizes": list(config.batch_sizes),
        "load_seconds": config.load_seconds if loaded else None,
        "flipped": flipped(run) if is_installed("captum") else [],
    }


def _opened(run: Run, arms: Iterable[ArmKey], stack: ExitStack) -> _Opened:
    config, opened = run.recipe.benchmark, _Opened({}, {})
    for arm in arms:
        artifact = run.by_name[arm.artifact]
        try:
            runtime = open_runtime(artifact, arm.runtime, threads=config.threads, device=config.device)
            opened.runtimes[arm] = stack.enter_context(runtime)
        except Exception as exc:  # an engine raises what it likes; the other arm goes on
            opened.failed[arm] = _told(exc)
    return opened


def _batches(run: Run, arms: _Opened, progress: Progress) -> Iterator[Record]:
    config = run.recipe.benchmark
    if not config.batch_sizes:
        return
    for arm, error in arms.failed.items():
        for size in config.batch_sizes:
            yield {**arm._asdict(), "batch_size": size, "rounds_ms": [], "error": error}
    found = sweep(
        lambda stack, threads: arms.runtimes,
        _samples(run),
        batch_sizes=config.batch_sizes,
        threads=[config.threads],
        num_rounds=min(config.num_rounds, SWEEP_ROUNDS),
        round_ms=config.round_ms,
        num_warmup=config.num_warmup,
        progress=progress,
    )
    for setting, point in found.items():
        size = setting.batch_size
        told = {"batch_size": size, "rounds_ms": point.rounds_ms, "error": point.error}
        yield setting.arm._asdict() | told


def _load(run: Run, arms: _Opened, progress: Progress) -> Iterator[Record]:
    config = run.recipe.benchmark
    if config.slo_ms is None:
        return
    samples, errors = _samples(run), dict(arms.failed)
    capacities: dict[ArmKey, float] = {}
    parts: dict[tuple[ArmKey, float], list[Asked]] = {}
    planned = [
        (turn, share, arm)
        for turn in range(_TURNS)
        for share in SHARES_OF_CAPACITY
        for arm in round_order(list(arms.runtimes), turn)
    ]
    with progress.task("ask at rates", len(planned)) as advance:
        for turn, share, arm in planned:
            if arm not in errors:
                runtime = arms.runtimes[arm]
                try:
                    if arm not in capacities:
                        capacities[arm] = _capacity(run, arm, runtime, samples)
                    asked = _turn(run, runtime, samples, share * capacities[arm], turn)
                    parts.setdefault((arm, share), []).append(asked)
                except Exception as exc:  # as when it is opened
                    errors[arm] = _told(exc)
            advance(1)
    for arm, error in errors.items():
        if not any(key == arm for key, _ in parts):
            yield {**arm._asdict(), **_rate_record(0.0, [], error)}
    for (arm, share), own in parts.items():
        yield {**arm._asdict(), **_rate_record(share * capacities[arm], own, errors.get(arm))}


def _capacity(run: Run, arm: ArmKey, runtime: Runtime, samples: Mapping[str, np.ndarray]) -> float:
    """Queries a second, one sample each, when the next waits for the last."""
    if run.recipe.benchmark.batch_size == 1:
        return 1e3 / median_latency(run.rounds[arm]).value
    return 1 / float(np.median(ask(runtime, samples, "SingleStream", seconds=_ALONE_SECONDS).latencies))


def _turn(run: Run, runtime: Runtime, samples: Mapping[str, np.ndarray], rate: float, turn: int) -> Asked:
    seconds = run.recipe.benchmark.load_seconds / _TURNS
    return ask(runtime, samples, "Server", seconds=seconds, rate=rate, seed=turn, patience=_PATIENCE)


def _rate_record(rate: float, parts: Sequence[Asked], error: str | None) -> Record:
    """What the turns of one rate found together."""
    if not parts:
        return {"rate": rate, "num_queries": 0, "kept_up": False, "percentiles": [], "error": error}
    asked = joined(parts)
    return {
        "rate": rate,
        "num_queries": len(asked.latencies),
        "kept_up": asked.kept_up,
        "percentiles": [found.model_dump() for found in percentile_figures(asked.latencies * 1e3)],
        "error": error,
    }


def _told(exc: Exception) -> str:
    return exc.message if isinstance(exc, LissomError) else f"{type(exc).__name__}: {exc}"


def _flips(run: Run, opened: Mapping[ArmKey, Runtime], progress: Progress) -> list[Record]:
    """Maps of both models' answers for the samples that flipped; none where that cannot be said."""
    places, chosen = flipped(run), run.chosen
    assert chosen is not None
    if not places or not {run.trusted, chosen} <= opened.keys():
        return []
    sides: list[list[Record]] = []
    for arm in (run.trusted, chosen):
        try:
            sides.append(_maps(run, opened[arm], arm, places, progress))
        except Exception as exc:  # captum is absent, samples have no grid, or an engine ran out of memory
            log.warning("flips are not explained: %s", exc)
            return []
    return [
        {"place": int(place), "before": before, "after": after}
        for place, before, after in zip(places, *sides, strict=False)
    ]


def _maps(run: Run, runtime: Runtime, arm: ArmKey, places: Sequence[int], progress: Progress) -> list[Record]:
    """What one model's own answers hang on, of as many samples as there is time for."""
    whole = run.data.tensors("report")
    inputs = runtime.signature.inputs
    tensors = {spec.name: whole[spec.name][list(places)] for spec in inputs}
    affordable = int(_FLIP_SECONDS / max(seconds_covered(runtime, tensors), 1e-9))
    places = places[: max(1, affordable)]
    answers = np.asarray(run.figures[arm]["predictions"]["report"], dtype=np.int64)[list(places)]
    few = {name: array[: len(places)] for name, array in tensors.items()}
    maps = occlusion_maps(runtime.infer_batch, few, answers, progress=progress).maps
    first = inputs[0].name
    raw = run.data.raw("report")[first]
    return [_drawn({first: raw[place]}, scores) for place, scores in zip(places, maps, strict=True)]


def _drawn(sample: Mapping[str, np.ndarray], scores: np.ndarray) -> Record:
    """A map as a picture over an image, or as whole numbers from -100 to 100 along a text.

    Args:
        sample: The first input, by its name.
        scores: Its map.
    """
    if scores.ndim == 2:
        return {"map": overlaid(sample, scores), "weights": []}
    text = text_of(sample)
    if text is None:
        return {"map": None, "weights": []}
    shown = scores[next(iter(sample.values())) > 0][: len(text)]
    scaled = np.round(100 * shown / max(float(np.abs(scores).max()), 1e-30))
    return {"map": None, "weights": scaled.astype(int).tolist()}


def _samples(run: Run) -> dict[str, np.ndarray]:
    """Tensors for calls, from the first split that has some."""
    split = next(name for name in ("select", "calibrate", "report", "train") if len(run.data.indices[name]))
    return run.data.tensors(split)
