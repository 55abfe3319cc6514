"""Reports made by hand, for the tests of the pages."""

from __future__ import annotations

import math
import random
from typing import Any

from lissom.report.schema import (
    AccuracyFigures,
    Arm,
    Gate,
    Interval,
    LatencyFigures,
    MemoryFigures,
    ParityFigures,
    PercentileFigures,
    Predictions,
    Report,
    SplitRow,
    StageRow,
    Step,
    Verdict,
    WarmUpFigures,
)

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
NUM_SAMPLES = 270
UNSEEN: dict[str, Any] = {"scores": {}, "certainty": {}, "groups": (), "flips": ()}
"""What predictions hold beside answers."""


def typical(**changes: Any) -> Report:
    """A run on digits with ten arms, one of them chosen, every gate passed."""
    stages = _stages()
    arms = (
        _arm("train", "torch", 0.402, 0, 0),
        _arm("train", "inductor", 0.171, 0, 0),
        _arm("prune", "torch", 0.361, 9, 2),
        _arm("prune", "inductor", 0.118, 9, 2),
        _arm("distill", "torch", 0.358, 4, 3),
        _arm("distill", "inductor", 0.117, 4, 3),
        _arm("export", "onnxruntime", 0.0391, 4, 3, parity="float32"),
        _arm("export", "openvino", 0.0342, 4, 3, parity="float32"),
        _arm("quantize", "onnxruntime", 0.0287, 6, 4, parity="int8"),
        _arm("quantize", "openvino", 0.0221, 6, 4, parity="int8", chosen=True),
    )
    fields = {
        "name": "digits",
        "created": "2026-02-03T12:04:05Z",
        "complete": True,
        "lissom": "0.1.0",
        "command": ("lissom", "run", "recipes/digits.yaml"),
        "out": "runs/digits",
        "recipe": _recipe(),
        "measurement": "5be1c0ffee5be1c0",
        "environment": _environment(),
        "data": "digits",
        "labels": tuple("0123456789"),
        "splits": {
            name: SplitRow(sha256=f"{index + 10:x}" * 32, num_samples=number)
            for index, (name, number) in enumerate(
                (("train", 1078), ("calibrate", 180), ("select", 269), ("report", 270))
            )
        },
        "verdict": _verdict(),
        "gates": _gates(),
        "stages": stages,
        "arms": arms,
        "waterfall": (
            Step(stage="train", runtime="torch", size_bytes=104_212, latency_ms=0.402, accuracy=0.9778),
            Step(stage="prune", runtime="torch", size_bytes=41_870, latency_ms=0.361, accuracy=0.9519),
            Step(stage="distill", runtime="torch", size_bytes=41_870, latency_ms=0.358, accuracy=0.9741),
            Step(stage="export", runtime="openvino", size_bytes=43_101, latency_ms=0.0342, accuracy=0.9741),
            Step(stage="quantize", runtime="openvino", size_bytes=21_655, latency_ms=0.0221, accuracy=0.9704),
        ),
        "predictions": Predictions(
            samples=("0123456789abcdef",), labels=(3,), arms={"train/torch": (3,)}, **UNSEEN
        ),
        "task": "classification",
        "score_name": "accuracy",
        "remarks": (),
        "control": None,
        "unfit": (),
        "readings": (),
        "ceilings": None,
        "layers": None,
        "batches": (),
        "load": (),
        "slo_ms": None,
    }
    return Report(**{**fields, **changes})


def with_errors() -> Report:
    """One arm failed, one has no accuracy, one may not be chosen; a gate failed and was allowed."""
    report = typical()
    broken = _empty_arm(
        "quantize", "tensorrt", "engine build failed: no kernel image for sm_89 (libnvinfer 10.16.1)"
    )
    unknown = report.arms[1].model_copy(
        update={"accuracy": None, "precision_executed": None, "eligible": False, "reason": "accuracy unknown"}
    )
    refused = report.arms[3].model_copy(
        update={"eligible": False, "reason": "drop of 2.6 points on select, limit 1.0"}
    )
    arms = (report.arms[0], unknown, report.arms[2], refused, *report.arms[4:], broken)
    gates = (
        *report.gates[:2],
        Gate(
            name="accuracy",
            state="fail",
            measured="drop 2.6 points",
            limit="1.0 point",
            reason="The drop on the report split is above the limit.",
            allowed=True,
        ),
        Gate(
            name="not-slower",
            state="inconclusive",
            measured="1.01× (0.97 to 1.05)",
            limit="2 % slower",
            reason="The interval reaches over the limit; more rounds would decide.",
            allowed=False,
        ),
        *report.gates[4:],
    )
    return report.model_copy(update={"arms": arms, "gates": gates, "complete": False})


def without_choice() -> Report:
    """No arm was eligible, nothing was chosen, a gate failed."""
    report = typical()
    arms = tuple(
        arm.model_copy(
            update={"chosen": False, "eligible": False, "reason": "drop above the limit on select"}
        )
        for arm in report.arms
    )
    verdict = Verdict(
        ok=False,
        sentence="Nothing was chosen: no artifact stays within 1.0 point of train on the select split.",
        reference="train",
        reference_artifact="train",
        reference_runtime="inductor",
        artifact=None,
        runtime=None,
        speedup=None,
        speedup_eager=None,
        size_ratio=None,
    )
    gates = (*report.gates[:2], report.gates[2].model_copy(update={"state": "fail"}), *report.gates[3:])
    return report.model_copy(update={"arms": arms, "verdict": verdict, "gates": gates})


def without_accuracy() -> Report:
    """Unlabelled data: no arm has an accuracy, the gate is skipped."""
    report = typical()
    arms = tuple(arm.model_copy(update={"accuracy": None}) for arm in report.arms)
    steps = tuple(step.model_copy(update={"accuracy": None}) for step in report.waterfall)
    skipped = report.gates[2].model_copy(
        update={"state": "skipped", "measured": "", "reason": "The data have no labels."}
    )
    gates = (*report.gates[:2], skipped, *report.gates[3:])
    return report.model_copy(update={"arms": arms, "waterfall": steps, "gates": gates})


def collapsed() -> Report:
    """The pruned model answers by chance until it is distilled."""
    report = typical()
    lost = _accuracy(244, 4)
    arms = tuple(
        arm.model_copy(update={"accuracy": lost}) if arm.artifact == "prune" else arm for arm in report.arms
    )
    return report.model_copy(update={"arms": arms})


def with_metrics(num_classes: int = 10) -> Report:
    """A classifier with metrics of every arm, and predictions of the reference and the chosen one."""
    report = typical()
    chance = random.Random("confusion")
    names = tuple("0123456789") if num_classes == 10 else tuple(f"class {k}" for k in range(num_classes))
    labels = tuple(chance.randrange(num_classes) for _ in range(NUM_SAMPLES))

    def answers(share: float) -> tuple[int, ...]:
        return tuple(chance.randrange(num_classes) if chance.random() < share else label for label in labels)

    predictions = Predictions(
        samples=tuple(f"{index:016x}" for index in range(NUM_SAMPLES)),
        labels=labels,
        arms={"train/torch": answers(0.05), "quantize/openvino": answers(0.1)},
        **UNSEEN,
    )
    metrics = {
        "accuracy": 0.97186,
        "top_5_accuracy": 0.9981,
        "f1_macro": 0.9712,
        "calibration_error": 0.0123,
        "negative_log_likelihood": 0.1034,
    }
    return report.model_copy(
        update={"labels": names, "predictions": predictions, "arms": _with_metrics(report, metrics)}
    )


def regression() -> Report:
    """Values instead of classes: a score that is no accuracy and may lie below zero."""
    report = typical(task="regression", score_name="skill", labels=())
    metrics = {"mae": 0.4431, "rmse": 0.61, "r2": 0.8712, "pearson": 0.9341}
    arms = tuple(
        arm.model_copy(update={"accuracy": _skill(-0.2)}) if arm.artifact == "prune" else arm
        for arm in _with_metrics(report, metrics)
    )
    predictions = Predictions(
        samples=(), labels=(), arms={}, **(UNSEEN | {"scores": {"train/torch": (0.5,)}})
    )
    return report.model_copy(update={"arms": arms, "predictions": predictions})


def language() -> Report:
    """A language model: token accuracy and perplexity."""
    report = typical(task="language-modelling", score_name="token accuracy", labels=())
    metrics = {"token_accuracy": 0.41, "cross_entropy": 1.93, "bits_per_token": 2.784, "perplexity": 6.8895}
    return report.model_copy(update={"arms": _with_metrics(report, metrics)})


def quantized(**notes: Any) -> Report:
    """The stage `quantize` climbed: four trials on three rungs, the third one is shipped."""
    return _with_notes(typical(), climb(**notes))


def climb(**changes: Any) -> dict[str, Any]:
    """What a quantize stage notes of its climb."""
    rungs = (
        ("plain", "", 18.04, 0.9714, 0.9517, True),
        ("observer", "mse", 24.31, 0.9821, 0.9665, True),
        ("mixed-precision", "conv_1", 27.62, 0.9926, 0.9703, True),
        ("mixed-precision", "2 layers, down to fc", 27.65, 0.9926, 0.9703, False),
    )
    notes = {
        "operators_before": 23,
        "operators": 61,
        "quantize": 14,
        "dequantize": 24,
        "computing": 6,
        "computing_int8": 5,
        "target": "x86",
        "validated_here": True,
        "plan": {"observer": "mse", "exclude": ["conv_1"], "smoothing": 0.0, "corrected": False},
        "goal": {"max_drop": 0.005, "min_agreement": 0.99, "min_sqnr_db": 25.0},
        "goal_reached": True,
        "judged_on": "select",
        "parent_score": 0.974,
        "rungs": [
            {
                "rung": rung,
                "what": what,
                "figures": {
                    "sqnr_db": sqnr_db,
                    "cosine": 0.99,
                    "agreement": agreement,
                    "score": score,
                    "drop": 0.974 - score,
                },
                "kept": kept,
            }
            for rung, what, sqnr_db, agreement, score, kept in rungs
        ],
        "worst_layers": [{"name": "conv_1", "sqnr_db": 21.34}, {"name": "fc", "sqnr_db": 30.2}],
    }
    return notes | changes


def faster(**changes: Any) -> dict[str, Any]:
    """The notes of a climb after which a timed variant took the place of the best trial."""
    timed = (
        ("operators: layers", (1.01, 0.97, 1.06), False),
        ("last layer in float32", (1.12, 1.05, 1.2), True),
    )
    notes = climb(
        plan={"observer": "mse", "exclude": ["conv_1", "fc"]},
        computing_int8=4,
        timed=[
            {"what": what, "speedup": dict(zip(("value", "low", "high"), speedup, strict=True)), "kept": kept}
            for what, speedup, kept in timed
        ],
    )
    return notes | changes


def unlabelled_climb(**changes: Any) -> dict[str, Any]:
    """The same without labels: no scores; the second model is not finite."""
    notes = climb(parent_score=None, judged_on="calibrate", goal_reached=False, **changes)
    for rung in notes["rungs"]:
        rung["figures"] |= {"score": None, "drop": None}
    notes["rungs"][1] |= {"kept": False, "figures": notes["rungs"][1]["figures"] | {"sqnr_db": -200.0}}
    return notes


def quantized_without_labels() -> Report:
    """A climb that is judged by noise alone, and ends below its goal."""
    return _with_notes(without_accuracy(), unlabelled_climb())


def empty() -> Report:
    """A run that ended before anything was measured."""
    report = typical(
        arms=(), waterfall=(), gates=(), stages=(), splits={}, environment={}, recipe={}, labels=()
    )
    verdict = without_choice().verdict.model_copy(update={"sentence": "Nothing was measured."})
    return report.model_copy(update={"verdict": verdict, "complete": False})


def hostile() -> Report:
    """Markup in every text that a user or a library can choose."""
    report = typical()
    arms = tuple(
        arm.model_copy(
            update={
                "artifact": HOSTILE if arm.artifact == "quantize" else arm.artifact,
                "runtime": HOSTILE if arm.runtime == "torch" else arm.runtime,
                "version": HOSTILE,
                "reason": HOSTILE,
                "precision_requested": HOSTILE,
                "precision_executed": {HOSTILE: 3},
            }
        )
        for arm in report.arms
    )
    rungs = [rung | {"rung": HOSTILE, "what": HOSTILE} for rung in climb()["rungs"]]
    plan, worst = {"observer": HOSTILE}, [{"name": HOSTILE, "sqnr_db": 3.0}]
    timed = [variant | {"what": HOSTILE} for variant in faster()["timed"]]
    hostile_climb = climb(
        rungs=rungs, plan=plan, worst_layers=worst, judged_on=HOSTILE, goal_reached=False, timed=timed
    )
    stages = tuple(
        row.model_copy(
            update={
                "name": HOSTILE if row.name == "quantize" else row.name,
                "notes": {HOSTILE: HOSTILE} | (hostile_climb if row.name == "quantize" else {}),
            }
        )
        for row in report.stages
    )
    return report.model_copy(
        update={
            "name": HOSTILE,
            "data": HOSTILE,
            "command": ("lissom", "run", HOSTILE, "`rm`", "a|b"),
            "recipe": {HOSTILE: [HOSTILE]},
            "environment": {HOSTILE: HOSTILE, "list": [HOSTILE]},
            "labels": (HOSTILE, "$a", "{{b}}", "%{x}"),
            "splits": {HOSTILE: SplitRow(sha256=HOSTILE, num_samples=3)},
            "gates": tuple(
                gate.model_copy(
                    update={"name": HOSTILE, "measured": HOSTILE, "limit": HOSTILE, "reason": HOSTILE}
                )
                for gate in report.gates
            ),
            "stages": stages,
            "arms": (*arms, _empty_arm(HOSTILE, HOSTILE, HOSTILE)),
            "waterfall": tuple(
                step.model_copy(update={"stage": HOSTILE, "runtime": HOSTILE}) for step in report.waterfall
            ),
            "verdict": report.verdict.model_copy(update={"sentence": HOSTILE, "artifact": HOSTILE}),
        }
    )


def _with_notes(report: Report, notes: dict[str, Any]) -> Report:
    stages = tuple(
        row.model_copy(update={"notes": notes}) if row.stage == "quantize" else row for row in report.stages
    )
    return report.model_copy(update={"stages": stages})


def _with_metrics(report: Report, metrics: dict[str, float]) -> tuple[Arm, ...]:
    return tuple(
        arm.model_copy(update={"metrics": {name: value - 0.001 * row for name, value in metrics.items()}})
        for row, arm in enumerate(report.arms)
    )


def _skill(value: float) -> AccuracyFigures:
    drop = 0.8 - value
    return _accuracy(9, 2).model_copy(
        update={
            "select": value,
            "report": value,
            "drop": Interval(value=drop, low=drop - 0.02, high=drop + 0.02),
        }
    )


def _stages() -> tuple[StageRow, ...]:
    history = [
        {"epoch": epoch, "loss": 1 / (epoch + 1), "accuracy": 0.9 + epoch / 1000} for epoch in range(30)
    ]
    rows = (
        ("train", "train", (), "torch", "float32", 104_212, 25_642, {"history": history}),
        (
            "prune",
            "prune",
            ("train",),
            "torch",
            "float32",
            41_870,
            10_058,
            {"ratio": 0.6, "macs_before": 1_204_224},
        ),
        ("distill", "distill", ("prune", "train"), "torch", "float32", 41_870, 10_058, {"best_epoch": 22}),
        ("export", "export", ("distill",), "onnx", "float32", 43_101, 10_058, {"opset": 20, "nodes": 23}),
        (
            "quantize",
            "quantize",
            ("export",),
            "onnx",
            "int8",
            21_655,
            None,
            {"reduce_range": False, "excluded": []},
        ),
    )
    return tuple(
        StageRow(
            name=name,
            stage=stage,
            parents=parents,
            id=f"{index + 1:x}c0ffee0{index}fedcba9".ljust(64, "5"),
            digest=f"{index + 6:x}" * 64,
            path=f"{index:02}-{name}-{index + 1:x}c0ffee0{index}fedcba9",
            format=kind,
            precision=precision,
            size_bytes=size_bytes,
            num_parameters=num_parameters,
            flops=2 * num_parameters if num_parameters else None,
            moved_bytes=size_bytes + 1024,
            notes=notes,
        )
        for index, (name, stage, parents, kind, precision, size_bytes, num_parameters, notes) in enumerate(
            rows
        )
    )


def _arm(
    artifact: str,
    runtime: str,
    median_ms: float,
    num_lost: int,
    num_gained: int,
    *,
    parity: str | None = None,
    chosen: bool = False,
) -> Arm:
    return Arm(
        artifact=artifact,
        runtime=runtime,
        version={"onnxruntime": "1.31.0", "openvino": "2026.4.0"}.get(runtime, "2.13.0"),
        error=None,
        precision_requested=parity or "float32",
        precision_executed={"int8": 12, "float32": 3} if parity == "int8" else {"float32": 15},
        open_ms=2140.0 if runtime == "inductor" else 38.4,
        first_ms=median_ms * 11,
        warmup=WarmUpFigures(num_calls=44, seconds=0.02, stationary=runtime != "inductor"),
        memory=MemoryFigures(held_bytes=1_000_000, peak_bytes=26_200_000, device_bytes=None),
        energy=(),
        roofline=None,
        metrics={},
        accuracy=_accuracy(num_lost, num_gained),
        latency=_latency(median_ms),
        speedup_eager=Interval(value=0.402 / median_ms, low=0.39 / median_ms, high=0.41 / median_ms),
        parity=_parity(parity) if parity else None,
        eligible=True,
        reason="loses 0.37 points on the select split, within the budget of 1",
        chosen=chosen,
    )


def _accuracy(num_lost: int, num_gained: int) -> AccuracyFigures:
    drop = (num_lost - num_gained) / NUM_SAMPLES
    width = 1.96 * math.sqrt(num_lost + num_gained) / NUM_SAMPLES
    return AccuracyFigures(
        select=0.981 - drop,
        report=264 / NUM_SAMPLES - drop,
        drop=Interval(value=drop, low=drop - width, high=drop + width),
        upper_bound=drop + width * 0.84,
        num_lost=num_lost,
        num_gained=num_gained,
        num_flipped=num_lost + num_gained + (1 if num_lost else 0),
    )


def _latency(median_ms: float) -> LatencyFigures:
    chance = random.Random(f"latency {median_ms}")
    rounds = tuple(
        tuple(
            median_ms * chance.lognormvariate(0, 0.03) * (4 if chance.random() < 0.01 else 1)
            for _ in range(25)
        )
        for _ in range(24)
    )
    return LatencyFigures(
        median_ms=Interval(value=median_ms, low=median_ms * 0.972, high=median_ms * 1.031),
        p90_ms=median_ms * 1.07,
        num_samples=600,
        rounds_ms=rounds,
        percentiles=(
            PercentileFigures(
                share=0.99, value_ms=1.2 * median_ms, bound_ms=None, needed=662, clustered=False
            ),
        ),
    )


def _parity(precision: str) -> ParityFigures:
    exact = precision == "float32"
    return ParityFigures(
        against="distill on torch" if exact else "export on onnxruntime",
        precision=precision,
        max_abs_error=3.1e-6 if exact else 0.41,
        mean_abs_error=4e-7 if exact else 0.03,
        cosine=0.999999 if exact else 0.9981,
        sqnr_db=118.2 if exact else 27.6,
        top1_agreement=1.0 if exact else 0.9926,
        passed=True,
        max_relative_error=None,
        mean_relative_error=None,
        limit="max abs error 1e-4" if exact else "top-1 agreement at least 98 %",
    )


def _empty_arm(artifact: str, runtime: str, error: str) -> Arm:
    return Arm(
        artifact=artifact,
        runtime=runtime,
        version="10.16.1",
        error=error,
        precision_requested="int8",
        precision_executed=None,
        open_ms=None,
        first_ms=None,
        warmup=None,
        memory=None,
        energy=(),
        roofline=None,
        metrics={},
        accuracy=None,
        latency=None,
        speedup_eager=None,
        parity=None,
        eligible=False,
        reason="could not be measured",
        chosen=False,
    )


def _verdict() -> Verdict:
    return Verdict(
        ok=True,
        sentence="quantize on openvino: 4.8x smaller; 7.74x (95 % 7.41 to 8.08) faster than the original at "
        "its best (train on inductor); accuracy drop 0.74 points (-1.56 to +3.04 points), not proven, needs "
        "1,830 samples; gates passed.",
        reference="train",
        reference_artifact="train",
        reference_runtime="inductor",
        artifact="quantize",
        runtime="openvino",
        speedup=Interval(value=7.74, low=7.41, high=8.08),
        speedup_eager=Interval(value=18.2, low=17.6, high=18.8),
        size_ratio=4.81,
    )


def _gates() -> tuple[Gate, ...]:
    rows = (
        (
            "reload",
            "pass",
            "5 of 5 artifacts",
            "probe bit-equal",
            "Every artifact reproduces its stored probe.",
        ),
        (
            "parity",
            "pass",
            "99.3 % agreement",
            "98 %",
            "Converted models answer as the models they came from.",
        ),
        (
            "accuracy",
            "pass",
            "drop 0.7 points",
            "1.0 point",
            "Within the limit, not proven: needs 1,830 samples.",
        ),
        ("not-slower", "pass", "7.74× (7.41 to 8.08)", "2 % slower", "Faster than the trained original."),
        ("precision", "pass", "int8 ×12", "int8", "The engine executed the precision that was asked for."),
        ("splits", "pass", "4 disjoint", "no shared sample", "No sample is in two splits."),
    )
    return tuple(
        Gate(name=name, state=state, measured=measured, limit=limit, reason=reason, allowed=False)
        for name, state, measured, limit, reason in rows
    )


def _recipe() -> dict[str, Any]:
    return {
        "name": "digits",
        "seed": 0,
        "data": {"source": "digits"},
        "stages": [{"stage": "train", "epochs": 30}, {"stage": "prune", "ratio": 0.6}, {"stage": "quantize"}],
        "gates": {"accuracy": {"max_drop": 0.01}, "not-slower": {"margin": 0.02}},
    }


def _environment() -> dict[str, Any]:
    return {
        "cpu": "AMD EPYC 9R14",
        "architecture": "x86_64",
        "isa": ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"],
        "cores": 2,
        "memory_bytes": 24_695_062_528,
        "os": "Linux-6.1-x86_64",
        "python": "3.11.7",
        "gpus": [],
        "load_average": [0.51, 0.42, 0.4],
        "governor": None,
        "container": True,
        "versions": {"lissom": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0", "openvino": "2026.4.0"},
    }
