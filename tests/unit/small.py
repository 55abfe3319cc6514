"""Small data, and artifacts made from them by the real stages without a run around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lissom.artifact import Artifact, ParentRef, content_id
from lissom.logs import NoProgress
from lissom.models.data import Data
from lissom.models.dataset import IGNORED, Dataset
from lissom.models.input_ranges import input_ranges
from lissom.models.stages import Context
from lissom.models.tasks import task_name
from lissom.recipe import ModelConfig, StageConfig, stage_types
from lissom.registry import stage_function

TOYS = "tests.unit.toys"
VOCABULARY, LENGTH, MASK = 16, 12, 15
_TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY}
_TRANSFORMER: dict[str, Any] = {"width": 16, "depth": 2, "num_heads": 2}

KWARGS: dict[str, dict[str, Any]] = {
    "resnet": {"widths": [16, 32], "blocks": [1, 1]},
    "resnet20": {"width": 8},
    "resnet32": {"width": 8},
    "resnet56": {"width": 8},
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "vgg": {"widths": [8, 16]},
    "mlp": {"hidden": [32, 16]},
    "rnn": {**_TOKENS, "embedding": 8, "hidden": 16},
    "lstm": {**_TOKENS, "embedding": 8, "hidden": 16},
    "gru": {**_TOKENS, "embedding": 8, "hidden": 16},
    "vit": {**_TRANSFORMER, "image_size": 8, "patch_size": 4},
    "bert": {**_TRANSFORMER, **_TOKENS, "max_length": LENGTH},
    "bert_mlm": {**_TRANSFORMER, **_TOKENS, "max_length": LENGTH},
    "gpt": {**_TRANSFORMER, **_TOKENS, "max_length": LENGTH},
}
"""Built-in models smaller than their defaults, where those would take seconds."""


@dataclass(frozen=True)
class Chain:
    """One model after each of three stages, the last of them made when it is asked for."""

    trained: Artifact
    exported: Artifact
    quantize: Callable[[], Artifact]

    @cached_property
    def quantized(self) -> Artifact:
        return self.quantize()

    def __iter__(self) -> Iterator[Artifact]:
        return iter((self.trained, self.exported, self.quantized))


def blobs(
    num_samples: int = 160, *, shape: tuple[int, ...] = (1, 8, 8), num_classes: int = 4, noise: float = 0.5
) -> Data:
    """Labelled samples around one centre a class, easy to learn, called `image`."""
    generator = np.random.default_rng(7)
    labels = np.arange(num_samples) % num_classes
    centres = generator.normal(size=(num_classes, *shape))
    samples = centres[labels] + noise * generator.normal(size=(num_samples, *shape))
    names = tuple(f"class {index}" for index in range(num_classes))
    return Data("blobs", Dataset({"image": samples.astype(np.float32)}, labels, names))


def texts(num_samples: int = 200, *, num_classes: int = 4) -> Data:
    """Sequences of tokens that count up by a step, which is the class; some end early, in padding."""
    tokens, steps = _counted(num_samples, num_classes)
    names = tuple(f"by {step}" for step in range(1, num_classes + 1))
    lengths = np.random.default_rng(8).integers(LENGTH // 2, LENGTH + 1, num_samples)
    tokens[np.arange(LENGTH) >= lengths[:, None]] = 0
    return Data("texts", Dataset({"tokens": tokens}, steps - 1, names))


def next_tokens(num_samples: int = 200) -> Data:
    """The same sequences without padding; the label of each token is the one after it."""
    tokens, steps = _counted(num_samples, 4)
    return Data("next tokens", Dataset({"tokens": tokens}, _after(tokens, steps[:, None])))


def masked_tokens(num_samples: int = 200) -> Data:
    """The same sequences with tokens masked; labels are the original token there, and -100 elsewhere."""
    tokens, _ = _counted(num_samples, 4)
    hidden = np.random.default_rng(9).random(tokens.shape) < 0.2
    hidden[:, LENGTH // 2] = True  # at least one
    given = np.where(hidden, MASK, tokens)
    return Data("masked tokens", Dataset({"tokens": given}, np.where(hidden, tokens, IGNORED)))


def _counted(num_samples: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens 1 to 14, counted up around the end, and the step of each sequence."""
    generator = np.random.default_rng(7)
    steps = np.arange(num_samples) % num_steps + 1
    tokens = generator.integers(1, MASK, (num_samples, 1))
    for _ in range(LENGTH - 1):
        tokens = np.concatenate([tokens, _after(tokens[:, -1:], steps[:, None])], axis=1)
    return tokens, steps


def _after(tokens: np.ndarray, steps: np.ndarray) -> np.ndarray:
    after: np.ndarray = (tokens - 1 + steps) % (MASK - 1) + 1
    return after


DATA = blobs(200)
_TEXTS = {**dict.fromkeys(("rnn", "lstm", "gru", "bert"), texts()), "gpt": next_tokens()}
_TEXTS["bert_mlm"] = masked_tokens()


def data_for(name: str) -> Data:
    """Data that a built-in model can learn: images, classes of token sequences, or tokens."""
    return _TEXTS.get(name, DATA)


def context(
    folder: Path,
    data: Data,
    config: StageConfig,
    *,
    model: ModelConfig | None = None,
    parents: Mapping[str, Artifact] | None = None,
    seed: int = 0,
) -> Context:
    """What a stage gets, with the fields that the pipeline would fill."""
    name = config.name or config.stage
    refs = tuple(
        ParentRef(role=role, name=parent.name, id=parent.id, digest=parent.digest)
        for role, parent in (parents or {}).items()
    )
    inputs = {"stage": config.stage, "config": config.settings, "seed": seed, "folder": folder.name}
    fields: dict[str, Any] = {
        "id": content_id(inputs),
        "id_inputs": inputs,
        "recipe": "small",
        "name": name,
        "stage": config.stage,
        "task": task_name((model or ModelConfig()).task, data),
        "labels": data.dataset.label_names,
        "preprocessing": data.dataset.preprocessing,
        "input_ranges": input_ranges(data),
        **({"scores": parents["input"].manifest.scores} if parents and "input" in parents else {}),
        "parents": refs,
        "config": config.settings,
        "seed": seed,
        "data": data.source,
        "splits": data.split_hashes,
        "tools": {},
        "made_on": {},
    }
    return Context(folder, fields, model or ModelConfig(), data, seed, NoProgress())


def make(
    folder: Path,
    data: Data,
    kind: str,
    /,
    *,
    model: ModelConfig | None = None,
    parents: Mapping[str, Artifact] | None = None,
    seed: int = 0,
    **fields: Any,
) -> Artifact:
    """The artifact of one stage, made by the function that the registry has for it."""
    timed = kind == "quantize" and fields.get("mode", "static") in ("static", "qat")
    quick = {"skip_slow": False} if timed else {}  # timing takes seconds, and differs each time
    config = stage_types()[kind].model_validate({"name": folder.name, **quick, **fields})
    made = context(folder, data, config, model=model, parents=parents, seed=seed)
    artifact: Artifact = stage_function(config)(parents or {}, config, made)
    return artifact


def load(folder: Path, data: Data, source: str, *, seed: int = 0, **kwargs: Any) -> Artifact:
    """An untrained model as an artifact, by the stage `load`."""
    return make(folder, data, "load", model=ModelConfig(source=source, kwargs=kwargs), seed=seed)


def toy(folder: Path, data: Data, name: str, **kwargs: Any) -> Artifact:
    """A model of `tests/unit/toys.py` as an artifact."""
    return load(folder, data, f"{TOYS}:{name}", **kwargs)
