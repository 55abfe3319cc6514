"""Options of the verbs, as type checkers see them; the recipe's models say what each means and may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from lissom.logs import Progress

ACCEPT_VARIABLE = "LISSOM_ACCEPT_SOURCE"
"""Set in the environment, or by --accept-source: a changed factory is gone on with though answers differ."""

RangeCheck = Literal["warn", "refuse", "off"]
"""What becomes of raw samples in another range than the model was made for."""


class RunOptions(TypedDict, total=False):
    """What every verb that makes an artifact takes.

    Attributes:
        out: Folder of the run; default: `runs/<verb>`.
        allow: Gates whose failure does not make the run fail.
        progress: Shows how far the run is.
    """

    out: str | Path | None
    allow: Sequence[str]
    progress: Progress | None


class RecipeOptions(TypedDict, total=False):
    """What goes into the recipe of a verb beside its own stage.

    Attributes:
        name: Of the run's folder and of the served model; default: that of the verb, of a `.onnx` file its
            own.
        kwargs: Keyword arguments of the factory.
        weights: A file of weights to start from.
        output: Output that matters where the model gives several by name, or all.
        task: classification, regression, language-modelling, or a factory of a `lissom.models.tasks.Task`.
        seed: Seed of everything random.
        max_drop: Accuracy that may be lost; 0.01 is one point.
        runtimes: Runtimes to measure on; default: every one that is installed but inductor, which compiles
            for many seconds.
        threads: Threads of a runtime; default: all cores.
        overrides: Changes of the recipe, `a.b=value` each.
    """

    name: str | None
    kwargs: Mapping[str, Any]
    weights: str | None
    output: str | None
    task: str | None
    seed: int
    max_drop: float
    runtimes: Sequence[str] | None
    threads: int | None
    overrides: Sequence[str]


class Options(RunOptions, RecipeOptions, total=False):
    """What every verb that makes an artifact takes."""


class TrainOptions(Options, total=False):
    """Options of `train`; see `lissom.recipe.TrainConfig` for units and ranges."""

    epochs: int
    batch_size: int
    accumulate: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup_epochs: float
    step_epochs: int
    step_factor: float
    loss: str | None
    label_smoothing: float
    focal_gamma: float
    huber_delta: float
    l1: float
    l2: float
    clip_norm: float | None
    clip_value: float | None
    normalize_gradient: bool
    ema: float | None
    precision: str
    channels_last: bool
    augment: Mapping[str, Any]
    early_stopping: Mapping[str, Any] | None
    keep: str
    num_workers: int


class DistillOptions(TrainOptions, total=False):
    """Options of `distill`; see `lissom.recipe.DistillConfig` for units and ranges."""

    kind: str
    teacher_weights: Sequence[float] | None
    temperature: float
    alpha: float
    target_weight: float
    non_target_weight: float
    inter_weight: float
    intra_weight: float
    student_layer: str | None
    teacher_layer: str | None
    hint_weight: float
    baseline: bool


class PruneOptions(Options, total=False):
    """Options of `prune`; see `lissom.recipe.PruneConfig` for units and ranges."""

    method: str
    ratio: float
    of: str
    runtime: str | None
    importance: str
    ranking: str
    round_to: int
    exclude: Sequence[str]
    steps: int
    schedule: str
    tune: Mapping[str, Any] | None
    group_norm: float


class ExportOptions(Options, total=False):
    """Options of `export`; see `lissom.recipe.ExportConfig` for ranges."""

    format: str
    precision: str | None
    opset: int


class QuantizeOptions(Options, total=False):
    """Options of `quantize`; see `lissom.recipe.QuantizeConfig` for units and ranges."""

    mode: str
    target: str
    calibration: str
    num_samples: int
    operators: str
    per_channel: bool
    reduce_range: bool | None
    exclude: Sequence[str]
    ladder: bool
    skip_slow: bool
    max_select_drop: float
    min_agreement: float
    min_sqnr_db: float
    tune: Mapping[str, Any] | None
    bits: int
    group_size: int


class LayerNoiseOptions(TypedDict, total=False):
    """Options of `sensitivity` with `quantization`: what stays float32, and how the model is built."""

    exclude: Sequence[str]
    kwargs: Mapping[str, Any]
    weights: str | None
    output: str | None
    task: str | None
    seed: int


class SensitivityOptions(LayerNoiseOptions, total=False):
    """Options of `sensitivity`: how units are ranked, as in `PruneConfig`, and how the model is built."""

    importance: str
    round_to: int


class DissectOptions(TypedDict, total=False):
    """Options of `dissect`.

    Attributes:
        data: DATA; default: what the artifact was made with.
        runtime: Where the artifact is executed; default: the first that works.
        layer: Layer whose feature maps are shown; default: the first that has some.
        num_samples: Samples that are explained; default: two of every class, as far as a minute allows.
    """

    data: str | Path | None
    runtime: str | None
    layer: str | None
    num_samples: int | None


class ServingOptions(TypedDict, total=False):
    """How models are served, where it is not left to what was measured.

    Attributes:
        runtime: Of every model; default: the fastest by measurement.
        threads: Of one call; default: as many as were measured, at most the cores that may be used. Of
            fewer, an engine that several threads may call at once computes several batches at once.
        max_batch: Rows that are computed at once; default: as was measured to be best, else 32.
        max_waiting: Rows that may wait; default: 1024.
        max_delay_ms: Time that a batch waits for others at most; default: 5.
        allow_nonfinite: Take NaN and infinity in every input; default: in those whose calibration samples
            hold them.
        range_check: What becomes of raw samples in quite another range than those of the calibration: warn
            in the answer, refuse with 400, or off; default: warn.
    """

    runtime: str | None
    threads: int | None
    max_batch: int | None
    max_waiting: int | None
    max_delay_ms: float | None
    allow_nonfinite: bool
    range_check: RangeCheck


class ServeOptions(ServingOptions, total=False):
    """How `serve` listens, and to whom.

    Attributes:
        host: Name or address to listen on; default: 127.0.0.1.
        port: Port to listen on, 0 for a free one; default: 3000.
        keys: File of API keys; needed for any host but this machine.
        rate_limit: Requests a second of each key; default: any number.
        access_log: File that a line of JSON is appended to for each answer, `-` for the log; default: none.
        names: Of the models, one an artifact in their order; default: those of their recipes.
        data: DATA with which `.onnx` files are loaded; default: made inputs.
        keep_alive: Seconds that a connection is kept open without a request, up to 3600; default: 5.
        drain_seconds: How long a server that was told to end answers 503 before it ends, for a balancer to
            notice, 0 to 30; default: 0, no longer than what was begun takes.
        tls_cert: PEM file of the certificate that the server shows, and those between it and the root;
            default: no TLS.
        tls_key: PEM file of its private key.
        tls_ca: PEM file of the authority whose certificates clients must show; default: they need none.
    """

    host: str
    port: int
    keys: str | Path | None
    rate_limit: float | None
    access_log: str | Path | None
    names: Sequence[str] | None
    data: str | Path | None
    keep_alive: float | None
    drain_seconds: float | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    tls_ca: str | Path | None


class LoadOptions(TypedDict, total=False):
    """How `load` asks a server.

    Attributes:
        model: Name; default: the only one.
        rates: Queries a second; default: shares of what a closed loop gets, and with `slo_ms` more, to find
            the highest rate at which 99 % of the queries are answered in time.
        slo_ms: Latency that is wanted.
        seconds: Of each rate; default: 10.
        connections: That are open at once; default: 64.
        timeout_ms: After which a query is given up; default: 5000.
        data: DATA whose tensors are sent; default: random numbers of the model's shapes.
        json_body: Send tensors as JSON.
        api_key: Default: the environment variable LISSOM_API_KEY.
        seed: Of random numbers and of the gaps; default: 0.
    """

    model: str | None
    rates: Sequence[float]
    slo_ms: float | None
    seconds: float
    connections: int
    timeout_ms: float
    data: str | None
    json_body: bool
    api_key: str | None
    seed: int
