"""The runtime: opens an artifact on one engine, checks every call, and owns the clock.

Verification, evaluation, benchmark and serving all go through `infer` and `timed_infer`, so that what is
measured is what is served. Public methods check; an engine implements the `_..._impl` methods.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from lissom.artifact import Artifact, Signature, TensorSpec
from lissom.errors import LissomError, RequestError, near
from lissom.recipe import default_threads
from lissom.registry import COMPILING, RUNTIMES, resolve, runtime_entry, runtimes_for
from lissom.runtime.arrays import plain_arrays
from lissom.runtime.layout import Layout

Hint = Literal["latency", "throughput"]
"""Whether one call at a time shall be fast, or many at once."""


class Layer(NamedTuple):
    """One operator as an engine executes it.

    Attributes:
        name: As the engine has it; several operators that were fused have one.
        operator: The engine's name for what it does.
        precision: Type in which it computes, as NumPy calls it; empty where the engine does not say.
        place: Execution provider or device.
        computes: True for convolutions, matrix products and recurrent layers.
    """

    name: str
    operator: str
    precision: str
    place: str
    computes: bool


class LayerTime(NamedTuple):
    """How long one operator took, as the engine executed it.

    Attributes:
        name: As the engine has it.
        operator: The engine's name for what it does.
        precision: Type in which it computes, as NumPy calls it; empty where the engine does not say.
        tensors: What it computes, by names of the graph or of its nodes; the path of a torch module.
        seconds: Median of the calls, or their mean where an engine keeps sums only; the engine's own watching
            is in it, some microseconds an operator.
    """

    name: str
    operator: str
    precision: str
    tensors: tuple[str, ...]
    seconds: float


class Runtime(ABC):
    """One artifact, opened on one engine."""

    name: ClassVar[str]
    thread_safe: ClassVar[bool]
    """True when several threads may call `infer` at once."""
    max_batch: ClassVar[int | None] = None
    """Most samples of one call; 1 where every new batch size would cost a compilation, None for any."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    """Devices that the engine computes on, the usual one first."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        device: str | None = None,
        hint: Hint = "latency",
    ) -> None:
        """Load and compile; `open_seconds` says how long it took.

        Args:
            artifact: An artifact of a format that this engine executes.
            threads: Threads of one call; default: every core this process may use.
            device: cpu or cuda; default: the engine's usual one.
            hint: Whether one call at a time or many at once shall be fast, for engines that ask.

        Raises:
            RequestError: the engine does not compute on this device.
        """
        self.artifact = artifact
        self.threads = threads or default_threads()
        self.device = device or self.devices[0]
        self.hint = hint
        if self.device not in self.devices:
            raise RequestError(
                f"{self.name} computes on {' and '.join(self.devices)}, {self.device!r} was asked for"
            )
        self.signature: Signature = artifact.manifest.signature
        self.layout = Layout(self.signature)
        specs = [_called(spec, self.layout) for spec in self.signature.inputs]
        self._specs = {spec.name: spec for spec in specs}
        self._plan = [_planned(spec) for spec in specs]
        started = time.perf_counter()
        self._open_impl()
        self.open_seconds = time.perf_counter() - started

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call.

        Args:
            inputs: Tensors after preprocessing, by name, with the dtypes and shapes of the signature.

        Returns:
            Output tensors by name, in the order of the signature.

        Raises:
            RequestError: a name, dtype, rank or size does not fit the signature.
        """
        return self._infer_impl(inputs if self._is_ready(inputs) else self._prepared(inputs))

    def infer_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answers to samples, in as many calls as the model and the engine need.

        Args:
            inputs: Arrays of shape [samples, ...] by name, as data sets have them, with the dtypes of the
                signature; a recurrent state that is not among them is zero.

        Returns:
            Arrays of shape [samples, ...] by name of the output, wherever the model has its samples.

        Raises:
            RequestError: as `infer`.
            RaggedAnswers: the answers to two samples have different shapes.
        """
        return self.layout.infer_samples(self.infer, self.layout.whole_samples(inputs), self.max_batch)

    def infer_request(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `infer`, for as many samples as a caller sends, in the layout of the signature."""
        return self.layout.infer_request(self.infer, inputs, self.max_batch)

    def timed_infer(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
        """One call and its wall time in seconds, with outputs in host memory."""
        ready = inputs if self._is_ready(inputs) else self._prepared(inputs)
        started = time.perf_counter()
        outputs = self._infer_impl(ready)
        return outputs, time.perf_counter() - started

    def layers(self) -> list[Layer] | None:
        """Every operator as the engine executes it, in its order; None when the engine cannot tell."""
        return self._layers

    def executed(self) -> dict[str, int] | None:
        """Convolutions, matrix products and recurrent layers by the type they compute in; see `layers`."""
        layers = self.layers()
        if layers is None:
            return None
        return dict(Counter(layer.precision for layer in layers if layer.computes))

    def layer_times(self, inputs: Mapping[str, np.ndarray], num_calls: int) -> list[LayerTime] | None:
        """Time of every operator over several calls, in the order of execution; None when it cannot be told.

        The model is opened once more for it, so that no other call is slowed down by the watching.

        Raises:
            RequestError: a name, dtype, rank or size does not fit the signature.
        """
        ready = inputs if self._is_ready(inputs) else self._prepared(inputs)
        return self._layer_times_impl(ready, num_calls)

    def elsewhere(self) -> list[str]:
        """Names of operators that compute in another place than was asked for, when the engine tells."""
        return []

    def close(self) -> None:  # noqa: B027  (most engines free themselves)
        """Free what the engine holds; the runtime cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _open_impl(self) -> None: ...

    @cached_property
    def _layers(self) -> list[Layer] | None:
        """Asked for once, because it may take a second session."""
        return self._layers_impl()

    def _layers_impl(self) -> list[Layer] | None:
        return None

    def _layer_times_impl(self, inputs: Mapping[str, np.ndarray], num_calls: int) -> list[LayerTime] | None:
        return None

    @abstractmethod
    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def _is_ready(self, inputs: Mapping[str, np.ndarray]) -> bool:
        """True when inputs fit the signature and lie in memory as every engine takes them.

        What nearly every call passes, in a few microseconds; `_prepared` says what is wrong, or copies.
        """
        if inputs.__class__ is not dict or len(inputs) != len(self._plan):
            return False
        sizes: dict[str, int] = {}
        for name, dtype, dims in self._plan:
            array = inputs.get(name)
            if array is None or array.dtype != dtype or not array.flags.carray or array.ndim != len(dims):
                return False
            for size, dim in zip(array.shape, dims, strict=True):
                if size != dim and (dim.__class__ is int or size != sizes.setdefault(dim, size)):
                    return False
        return True

    def _prepared(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        self._check(inputs)
        return plain_arrays(inputs)

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        if inputs.keys() != self._specs.keys():
            unknown = sorted(inputs.keys() - self._specs.keys())
            missing = sorted(self._specs.keys() - inputs.keys())
            problem = f"unknown input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing"
            raise RequestError(f"{problem}; {near(unknown[0] if unknown else missing[0], self._specs)}")
        sizes: dict[str, int] = {}
        for name, array in inputs.items():
            check_tensor(self._specs[name], array, sizes)


def _called(spec: TensorSpec, layout: Layout) -> TensorSpec:
    """What the engine takes in one call: of so many samples where their number is fixed."""
    axis = layout.batching.inputs.get(spec.name)
    if layout.size is None or axis is None:
        return spec
    shape = tuple(layout.size if place == axis else size for place, size in enumerate(spec.shape))
    return spec.model_copy(update={"shape": shape})


def _planned(spec: TensorSpec) -> tuple[str, np.dtype[Any], tuple[Any, ...]]:
    """Name, dtype and dimensions of an input, without the model around them."""
    return spec.name, np.dtype(spec.dtype), tuple(spec.shape)


_dtype = cache(np.dtype)


def check_tensor(spec: TensorSpec, array: np.ndarray, sizes: dict[str, int]) -> None:
    """Compare one tensor with its specification; `sizes` collects the named dimensions seen so far.

    Raises:
        RequestError: saying what was asked and what was found.
    """
    if array.dtype != _dtype(spec.dtype):
        raise RequestError(f"input {spec.name!r} is {array.dtype.name}, the model takes {spec.dtype}")
    fits = array.ndim == len(spec.shape) and all(
        size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        for dim, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(str(dim) for dim in spec.shape)
        found = ", ".join(str(size) for size in array.shape)
        raise RequestError(f"input {spec.name!r} has the shape [{found}], the model takes [{wanted}]")


def open_runtime(
    artifact: Artifact,
    name: str | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    hint: Hint = "latency",
) -> Runtime:
    """Open an artifact on the runtime called `name`, or on the first that works; see `Runtime`.

    Raises:
        RequestError: the name is unknown, or the runtime does not execute the artifact's format.
        MissingExtra: the runtime's library is not installed.
        ArtifactError: the engine ended the child process in which a model from elsewhere is tried.
    """
    fitting = runtimes_for(artifact.manifest.format)
    if name is None:
        return _open_first(artifact, fitting, threads=threads, device=device, hint=hint)
    entry = runtime_entry(name)
    if artifact.manifest.format not in entry.formats:
        raise RequestError(
            f"{name} does not execute {artifact.manifest.format} artifacts",
            hint=f"use {' or '.join(fitting)}",
        )
    if artifact.manifest.foreign:
        from lissom.runtime.isolation import prove_opening

        prove_opening(artifact, name, threads=threads, device=device)
    runtime: Runtime = resolve(entry.reference, known={})(artifact, threads=threads, device=device, hint=hint)
    return runtime


def _open_first(artifact: Artifact, names: list[str], **options: Any) -> Runtime:
    problem: LissomError | None = None
    for name in names:
        if name in COMPILING:  # for many seconds; only when it is asked for
            continue
        try:
            return open_runtime(artifact, name, **options)
        except LissomError as exc:
            problem = problem or exc
    raise problem or RequestError(f"no runtime executes {artifact.manifest.format}; {near('', RUNTIMES)}")


def executed_name(kind: str) -> str:
    """The NumPy name of an element type that an engine spells its own way.

    >>> executed_name("f32"), executed_name("U8")
    ('float32', 'uint8')
    """
    short = {
        "f32": "float32",
        "f16": "float16",
        "bf16": "bfloat16",
        "i8": "int8",
        "u8": "uint8",
        "i32": "int32",
        "i64": "int64",
        "u4": "weight-int4",
    }
    return short.get(kind.lower(), kind.lower())
