"""The chosen arm beside the original, looked at once more when both are known.

    batches   latency and throughput by batch size, timed in the same interleaved rounds
    load      the 99th percentile by rate: queries come as MLPerf's Server plans them, each arm is asked at
              shares of what it could do alone, in turns
    flips     what the answers hang on that became wrong or right: each model's own answer, explained by
              covering parts of the input

The first two are asked for in the recipe. What was measured is kept as evidence beside the chosen artifact
and used again, by a key of its own: another latency target does not time all arms again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from lissom.artifact import content_id
from lissom.bench.scenarios import ask
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

PAIR_SCHEMA = "lissom.pair/1"
SHARES_OF_CAPACITY = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Rates that an arm is asked at, as shares of calls one after the other in its median latency."""
SWEEP_ROUNDS = 12
_PATIENCE = 2.0
"""Times of `load_seconds` after which a rate that is not kept up with is given up."""
_FLIP_SECONDS = 10.0
"""That explaining flips may take for each arm; those that lost most come first."""
Record = dict[str, Any]


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
            opened = {
                arm: stack.enter_context(_opened(run, arm))
                for arm in dict.fromkeys((original, chosen, run.trusted))
            }
            timed = {arm: opened[arm] for arm in dict.fromkeys((original, chosen))}
            found["batches"] = list(_batches(run, timed, progress))
            found["load"] = list(_load(run, timed, progress))
            found["flips"] = _flips(run, opened, progress)
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


def _opened(run: Run, arm: ArmKey) -> Runtime:
    config = run.recipe.benchmark
    artifact = run.by_name[arm.artifact]
    return open_runtime(artifact, arm.runtime, threads=config.threads, device=config.device)


def _batches(run: Run, arms: Mapping[ArmKey, Runtime], progress: Progress) -> Iterator[Record]:
    config = run.recipe.benchmark
    if not config.batch_sizes:
        return
    found = sweep(
        lambda stack, threads: arms,
        _samples(run),
        batch_sizes=config.batch_sizes,
        threads=[config.threads],
        num_rounds=min(config.num_rounds, SWEEP_ROUNDS),
        round_ms=config.round_ms,
        num_warmup=config.num_warmup,
        progress=progress,
    )
    for setting, point in found.items():
        yield {
            "artifact": setting.arm.artifact,
            "runtime": setting.arm.runtime,
            "batch_size": setting.batch_size,
            "rounds_ms": point.rounds_ms,
            "error": point.error,
        }


def _load(run: Run, arms: Mapping[ArmKey, Runtime], progress: Progress) -> Iterator[Record]:
    config = run.recipe.benchmark
    if config.slo_ms is None:
        return
    samples = _samples(run)
    failed: set[ArmKey] = set()
    with progress.task("ask at rates", len(SHARES_OF_CAPACITY) * len(arms)) as advance:
        for turn, share in enumerate(SHARES_OF_CAPACITY):
            for arm in round_order(list(arms), turn):
                if arm not in failed:
                    rate = share * 1e3 / median_latency(run.rounds[arm]).value
                    found = _at_rate(arms[arm], samples, rate, config.load_seconds, turn)
                    failed |= {arm} if found["error"] else set()
                    yield {"artifact": arm.artifact, "runtime": arm.runtime, **found}
                advance(1)


def _at_rate(
    runtime: Runtime, samples: Mapping[str, np.ndarray], rate: float, seconds: float, seed: int
) -> Record:
    try:
        asked = ask(runtime, samples, "Server", seconds=seconds, rate=rate, seed=seed, patience=_PATIENCE)
    except Exception as exc:  # an engine raises what it likes; the other arm goes on
        return {"rate": rate, "num_queries": 0, "kept_up": False, "percentiles": [], "error": str(exc)}
    return {
        "rate": rate,
        "num_queries": len(asked.latencies),
        "kept_up": asked.kept_up,
        "percentiles": [found.model_dump() for found in percentile_figures(asked.latencies * 1e3)],
        "error": None,
    }


def _flips(run: Run, opened: Mapping[ArmKey, Runtime], progress: Progress) -> list[Record]:
    """Maps of both models' answers for the samples that flipped; none where that cannot be said."""
    places, chosen = flipped(run), run.chosen
    assert chosen is not None
    if not len(places):
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
