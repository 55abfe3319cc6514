"""The report as data: `report.json` is one `Report`; every page is a pure function of it.

Times are milliseconds, sizes bytes, accuracies and drops shares between 0 and 1 (0.01 is one point).
Nothing is rounded here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lissom.artifact import Frozen

REPORT_SCHEMA = "lissom.report/3"


class Interval(Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class StageRow(Frozen):
    """One artifact of the run."""

    name: str
    stage: str
    parents: tuple[str, ...] = Field(description="Names of the stages that it was made from.")
    id: str
    digest: str
    path: str = Field(description="Relative to the folder of the report.")
    format: str
    precision: str
    size_bytes: int
    num_parameters: int | None
    flops: int | None = Field(description="Of one sample, 2 a multiply-add, those of zeros included.")
    moved_bytes: int | None = Field(
        description="Weights, inputs and outputs of one sample: the fewest bytes a call can move."
    )
    notes: dict[str, Any]


class AccuracyFigures(Frozen):
    """Mean score of one arm, the accuracy of a classifier, and its paired drop against the reference."""

    select: float
    report: float
    drop: Interval = Field(
        description="Reference minus this arm on the report split: Tango's score interval for paired shares, "
        "or the paired t interval where scores are no right or wrong."
    )
    upper_bound: float = Field(description="One-sided 95 % upper bound of the drop.")
    num_lost: int = Field(
        description="Samples that the reference had right and this arm has wrong, or whose score is lower."
    )
    num_gained: int = Field(
        description="Samples that the reference had wrong and this arm has right, or whose score is higher."
    )
    num_flipped: int = Field(
        description="Samples whose predicted label changed, or whose score did where answers are no labels."
    )


class PercentileFigures(Frozen):
    """A percentile of all calls, and a bound of the true one."""

    share: float = Field(description="Of the calls that took at most so long.")
    value_ms: float = Field(description="The call at rank ceil(share * n).")
    bound_ms: float | None = Field(
        description="Above the true percentile with 99 % confidence; null where there are too few calls."
    )
    needed: int = Field(description="Calls that a bound takes at least.")
    clustered: bool = Field(description="Slow calls come together, so that fewer than n calls count.")


class LatencyFigures(Frozen):
    """Latency of one call of one arm."""

    median_ms: Interval = Field(description="Over the medians of the rounds, t interval on their logarithms.")
    p90_ms: float
    num_samples: int
    rounds_ms: tuple[tuple[float, ...], ...] = Field(description="Every timed call, by round.")
    percentiles: tuple[PercentileFigures, ...] = Field(description="50, 90, 95, 99 and 99.9 %.")
    threads: int | None = Field(None, description="Threads of the engine; null in older reports.")
    load: dict[str, float] | None = Field(
        None,
        description="Cores that other processes (`others`) and other machines (`stolen`) computed on in its "
        "rounds; null in older reports, and where the rounds were too short to count.",
    )

    def percentile(self, share: float) -> PercentileFigures | None:
        """The figures of one percentile, where the report has it."""
        return next((found for found in self.percentiles if found.share == share), None)


class ParityFigures(Frozen):
    """How far the outputs of one arm are from those of the artifact it was made from."""

    against: str
    precision: str
    max_abs_error: float | None = Field(description="Null where an output is not finite.")
    mean_abs_error: float | None
    cosine: float | None
    sqnr_db: float | None = Field(
        description="Signal to quantization noise, decibel; null when there is no noise."
    )
    top1_agreement: float
    passed: bool
    limit: str
    max_relative_error: float | None = Field(
        description="Largest error over the largest absolute value of the parent's output."
    )
    mean_relative_error: float | None = Field(
        description="Mean error over the mean absolute value of the parent's output."
    )


class MemoryFigures(Frozen):
    """What opening a model and its first inference took; null where the system does not say."""

    held_bytes: int | None = Field(description="Of the process, and still held afterwards.")
    peak_bytes: int | None = Field(description="Of the process, at the most.")
    device_bytes: int | None = Field(description="Of the card, and still held afterwards.")


class EnergyFigures(Frozen):
    """What one call took by one counter, over many calls in a row."""

    counter: str
    joules: float = Field(description="Of one call, with what the machine takes anyway.")
    above_idle_joules: float = Field(description="Of one call, without what the idle machine takes.")
    num_calls: int
    seconds: float


class WarmUpFigures(Frozen):
    """Calls before the first round."""

    num_calls: int
    seconds: float
    stationary: bool = Field(description="They got no faster in the end; else the time for it was up.")


class Arm(Frozen):
    """One artifact on one runtime."""

    artifact: str = Field(description="Name of the stage.")
    runtime: str
    version: str = Field(description="Version of the runtime's library.")
    error: str | None = Field(description="Why it could not be measured.")
    precision_requested: str
    precision_executed: dict[str, int] | None = Field(
        description="Operators by executed type; null: unknown."
    )
    open_ms: float | None = Field(description="Load and compile, until the first inference can start.")
    first_ms: float | None = Field(description="The first inference.")
    warmup: WarmUpFigures | None
    memory: MemoryFigures | None
    energy: tuple[EnergyFigures, ...] = Field(description="Empty where no counter can be read.")
    roofline: RooflineFigures | None = Field(description="Null where operations or ceilings are unknown.")
    accuracy: AccuracyFigures | None
    metrics: dict[str, float] = Field(description="Further figures of the report split, by name.")
    latency: LatencyFigures | None
    speedup_eager: Interval | None = Field(description="Against the reference on torch eager.")
    parity: ParityFigures | None = Field(description="Absent for an artifact that was not converted.")
    eligible: bool = Field(description="May be chosen: measured, and within the budget on the select split.")
    reason: str = Field(description="Why it is or is not eligible.")
    chosen: bool


class Gate(Frozen):
    """One gate."""

    name: str
    state: Literal["pass", "fail", "inconclusive", "skipped"]
    measured: str
    limit: str
    reason: str = Field(description="One sentence for the reader.")
    allowed: bool = Field(description="A failure that the user overrode with --allow.")


class Control(Frozen):
    """An arm opened twice and timed as if it were two, in the same rounds: what differs is not the model."""

    artifact: str
    runtime: str
    ratio: Interval = Field(description="Latency of the one over that of the other; noise unless it holds 1.")
    rounds: tuple[float, ...] = Field(description="The same in every round; empty in older reports.")

    @property
    def is_quiet(self) -> bool:
        """True when no difference was seen where there is none."""
        return self.ratio.low <= 1 <= self.ratio.high


class Ceilings(Frozen):
    """What the machine can do at most, measured: large matrix products and a large copy."""

    device: str
    threads: int
    flops_per_s: dict[str, float] = Field(description="By type.")
    bytes_per_s: float = Field(description="Read and written.")


class LayerFigures(Frozen):
    """What an engine executed of one layer."""

    operators: tuple[str, ...]
    precision: str = Field(description="Of its convolutions and products; empty where unknown.")
    ms: float = Field(description="With what the engine's own watching takes, microseconds an operator.")


class LayerChange(Frozen):
    """Layers of two models that compute the same tensor; null on the side that has none."""

    name: str = Field(description="Of the module whose weights it uses, or of the tensor where it ends.")
    before: LayerFigures | None
    after: LayerFigures | None


class LayerTable(Frozen):
    """Time of every layer of two models on one runtime, in the order of execution."""

    runtime: str
    before: str = Field(description="Name of the stage: the original, or the first in its format.")
    after: str = Field(description="Name of the chosen stage.")
    changes: tuple[LayerChange, ...]


class RooflineFigures(Frozen):
    """How near a call comes to what the machine can do at most."""

    flops_per_s: float = Field(description="Operations of a call over its median latency.")
    intensity: float = Field(description="Operations a byte that is moved at least.")
    share: float = Field(description="Of what the machine allows at that intensity.")
    bound: Literal["compute", "memory"]
    precision: str = Field(description="Type whose peak was taken.")


class BatchFigures(Frozen):
    """One arm at one batch size."""

    artifact: str
    runtime: str
    batch_size: int
    median_ms: Interval | None = Field(description="Of a call; null where it failed.")
    samples_per_second: float | None
    rounds_ms: tuple[tuple[float, ...], ...]
    error: str | None


class LoadFigures(Frozen):
    """One arm under one rate: queries come as they were planned, whether it keeps up or not."""

    artifact: str
    runtime: str
    rate: float = Field(description="Queries a second that were planned, one sample each.")
    num_queries: int
    kept_up: bool = Field(description="False when answers fell further and further behind.")
    percentiles: tuple[PercentileFigures, ...] = Field(
        description="50, 90, 95, 99 and 99.9 % of the latencies, from the planned time of a query."
    )
    error: str | None


class Step(Frozen):
    """One bar of the waterfall: the model after a stage."""

    stage: str
    runtime: str = Field(description="torch until the model is exported, then its fastest runtime.")
    size_bytes: int
    latency_ms: float | None
    accuracy: float | None


class Verdict(Frozen):
    """The answer, first."""

    ok: bool
    sentence: str
    reference: str = Field(description="Name of the stage that everything is compared with.")
    reference_artifact: str | None = Field(
        description="The reference in its fastest format: name of a stage."
    )
    reference_runtime: str | None = Field(description="The runtime on which that is fastest.")
    artifact: str | None = Field(description="Name of the chosen stage.")
    runtime: str | None
    speedup: Interval | None = Field(description="Against the reference on its fastest runtime.")
    speedup_eager: Interval | None = Field(description="Against the reference on torch eager.")
    size_ratio: float | None = Field(description="Bytes of the reference over bytes of the chosen artifact.")


class SplitRow(Frozen):
    """One split of the data."""

    sha256: str
    num_samples: int


class CertaintyFigures(Frozen):
    """How sure an arm is of its answers, sample by sample of the report split."""

    confidence: tuple[float, ...] = Field(description="Probability that it gives its own answer.")
    likelihood: tuple[float, ...] = Field(description="Probability that it gives the true class.")
    kl: tuple[float, ...] = Field(
        description="Kullback-Leibler divergence from the reference, nats; empty for data without it."
    )


class Flip(Frozen):
    """A sample whose answer became wrong or right."""

    place: int = Field(description="In the report split, from 0.")
    picture: str | None = Field(description="PNG as a data URL; null for what is no picture.")
    text: str | None = Field(description="Beginning of a text; null for what is none.")
    before_map: str | None = Field(
        None, description="What the answer of the reference hangs on, over the picture: PNG as a data URL."
    )
    after_map: str | None = Field(None, description="The same of the chosen arm.")
    before_weights: tuple[int, ...] = Field(
        (),
        description="What the answer of the reference hangs on, position by position of a text, -100 to 100; "
        "empty where unknown.",
    )
    after_weights: tuple[int, ...] = Field((), description="The same of the chosen arm.")


class Predictions(Frozen):
    """Answers and scores of every arm on the report split, in one order.

    Scores of classes are not repeated: they say whether answer and label are the same.
    """

    samples: tuple[str, ...] = Field(description="Hash of each sample, first 16 hex digits.")
    labels: tuple[int | float, ...] = Field(
        description="True class or value of each sample; empty where it is more than one number."
    )
    arms: dict[str, tuple[int | float, ...]] = Field(
        description="`artifact/runtime` to predicted classes or values, where each is one number."
    )
    scores: dict[str, tuple[int | float, ...]] = Field(
        description="`artifact/runtime` to the score of each sample, unless the answers are classes."
    )
    certainty: dict[str, CertaintyFigures] = Field(
        description="`artifact/runtime` of the reference and the chosen arm; empty without classes."
    )
    groups: tuple[str, ...] = Field(description="Group of each sample; empty for data without groups.")
    flips: tuple[Flip, ...] = Field(
        description="Samples of which answers flipped from the reference to the chosen arm, those that lost "
        "most probability first; a part where there are many."
    )


class Report(Frozen):
    """One run, measured."""

    schema_: Literal["lissom.report/3"] = Field("lissom.report/3", alias="schema")
    name: str
    created: str = Field(description="UTC, ISO 8601.")
    complete: bool
    lissom: str = Field(description="Version that wrote it.")
    command: tuple[str, ...]
    out: str = Field(description="Folder of the run, as it was named.")
    recipe: dict[str, Any]
    measurement: str = Field(description="Key that ties this report to the evidence it was built from.")
    environment: dict[str, Any]
    data: str
    task: str = Field(description="As the manifests name it.")
    score_name: str = Field(description="What the mean score is called, in every place that says accuracy.")
    labels: tuple[str, ...]
    splits: dict[str, SplitRow]
    verdict: Verdict
    control: Control | None
    unfit: tuple[str, ...] = Field(
        description="Why times of this machine are no evidence; the gate not-slower is withheld then."
    )
    readings: tuple[dict[str, Any], ...] = Field(
        description="The machine between rounds: clocks, heat, throttling, other processes, the card."
    )
    ceilings: Ceilings | None = Field(description="What the machine can do at most; null: not measured.")
    layers: LayerTable | None = Field(description="Null where the engine does not tell.")
    batches: tuple[BatchFigures, ...] = Field(
        description="The original at its best and the chosen arm by batch size; empty: not measured."
    )
    load: tuple[LoadFigures, ...] = Field(description="Both by rate; empty: not measured.")
    slo_ms: float | None = Field(description="Latency that 99 % of the queries should have at most.")
    remarks: tuple[str, ...] = Field(description="What a reader should know beside the gates.")
    gates: tuple[Gate, ...]
    stages: tuple[StageRow, ...]
    arms: tuple[Arm, ...]
    waterfall: tuple[Step, ...]
    predictions: Predictions
