"""Looks inside that were never taken: everything that a page can show, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.unit.artifacts import tiny_onnx_artifact
from tests.unit.report.samples import HOSTILE

from lissom.artifact import Artifact
from lissom.models.attribution import Attributed
from lissom.models.inspection import (
    FeatureMaps,
    Grid,
    Held,
    Inside,
    Layer,
    Rectifier,
    histogram,
)
from lissom.report.dissection import Dissection, Side, Training
from lissom.report.explanations import Explained, Unrelated

NUM_SAMPLES = 12


def pair(folder: Path, *, name: str = "conv") -> Dissection:
    """Two models of images, the second quantized; every name holds `name`."""
    generator = np.random.default_rng(0)
    made = tiny_onnx_artifact(folder / "one")
    artifacts = [
        Artifact(made.path, made.manifest.model_copy(update={"name": f"{name} {which}"}), made.digest)
        for which in ("before", "after")
    ]
    maps = [generator.normal(size=(NUM_SAMPLES, 8, 8)) for _ in range(2)]
    maps[1] += maps[0]
    answers, certainty = np.arange(NUM_SAMPLES) % 3, np.full(NUM_SAMPLES, 0.9)
    sides = tuple(
        Side(artifact, "onnxruntime", answers, certainty, _inside(name, quantized=place == 1), "")
        for place, artifact in enumerate(artifacts)
    )
    explained = tuple(
        Explained(
            tuple(Attributed(method, one, layer) for one in maps),  # type: ignore[arg-type]
            np.linspace(0.6, 1.0, NUM_SAMPLES),
            Unrelated(0.5, of_a_class=True),
        )
        for method, layer in (("grad-cam", name), ("integrated-gradients", ""))
    )
    epoch = {"gradient_norm": 2.0, "gradient_norm_max": 5.0, "vanishing": 0.0, "exploding": 0.0}
    return Dissection(
        sides,
        "digits",
        "report",
        "a machine, 2 cores",
        np.arange(NUM_SAMPLES),
        tuple(f"{place:016x}" for place in range(NUM_SAMPLES)),
        {"image": generator.random((NUM_SAMPLES, 1, 8, 8))},
        answers,
        (f"{name} cat", "dog", "owl"),
        True,
        explained,
        (f"{name} has no gradients.",),
        Training(name, (epoch, {**epoch, "gradient_norm_max": 900.0, "exploding": 1.0}, epoch)),
    )


def hostile(folder: Path) -> Dissection:
    """Names that would do harm, were they not escaped."""
    return pair(folder, name=HOSTILE)


def text(folder: Path) -> Dissection:
    """One model of texts, of which nothing can be seen."""
    found = pair(folder)
    tokens = np.tile(np.frombuffer(b"what a <b>text</b>", np.uint8).astype(np.int64), (NUM_SAMPLES, 1))
    maps = np.random.default_rng(0).normal(size=tokens.shape)
    side = found.sides[0]._replace(inside=None, unseen="layers cannot be watched")
    explained = (Explained((Attributed("occlusion", maps),), None, Unrelated(0.2, of_a_class=False)),)
    return Dissection(
        (side,),
        found.data,
        found.split,
        found.machine,
        found.places,
        found.hashes,
        {"tokens": tokens},
        found.targets,
        found.labels,
        False,
        explained,
        (),
        None,
    )


def _inside(name: str, *, quantized: bool) -> Inside:
    generator = np.random.default_rng(1)
    grid = Grid(-1.0, 1.0, 2 / 255, 256, 200, None)
    layers = tuple(
        Layer(
            f"{name}.{place}",
            "Conv",
            900 - 100 * place,
            None if place == 3 else 10_000 * (place + 1),
            Held(histogram(generator.normal(size=500)), grid if quantized else None),
            Held(histogram(generator.normal(size=500)), grid._replace(clipped=0.01) if quantized else None),
        )
        for place in range(4)
    )
    rectifiers = (Rectifier(f"{name}.0", 16, 2), Rectifier(f"{name}.1", 16, 0))
    maps = FeatureMaps(f"{name}.0", (0, 1, 3), generator.normal(size=(3, 8, 8)), 16)
    return Inside(layers, rectifiers, maps, 64)
