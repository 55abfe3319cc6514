"""Compress a model and data of your own, from Python.

Run it where it lies: `python examples/own_model.py`. Two functions are yours: one builds the model, one
gives the data. The rest is a recipe, here built in Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torch import nn

import lissom

HERE = Path(__file__).resolve()


def build() -> nn.Module:
    """Three classes of noisy waves, 64 samples long."""
    return nn.Sequential(
        nn.Conv1d(1, 32, 7, padding=3),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def waves() -> lissom.Dataset:
    """Sine, square and sawtooth waves with noise; lissom cuts the four splits by hash."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 1200)
    phase = np.linspace(0, 6 * np.pi, 64)[None] + generator.uniform(0, 6, (1200, 1))
    shapes = np.stack([np.sin(phase), np.sign(np.sin(phase)), (phase / np.pi) % 2 - 1], axis=0)
    clean = shapes[labels, np.arange(1200)]
    samples = (clean + generator.normal(0, 0.4, clean.shape)).astype(np.float32)
    return lissom.Dataset(
        inputs={"wave": samples[:, None]},
        labels=labels,
        label_names=("sine", "square", "sawtooth"),
    )


def main(out: Path) -> None:
    """Train, prune, distil and quantize as one recipe; then ask the model that was chosen."""
    recipe = lissom.Recipe.from_document(
        {
            "name": "waves",
            "model": {"source": f"{HERE}:build"},
            "data": {"source": f"{HERE}:waves"},
            "stages": [
                {"stage": "train", "epochs": 15, "learning_rate": 0.05},
                {"stage": "export", "name": "original"},
                {"stage": "prune", "from": "train", "ratio": 0.5},
                {"stage": "distill", "teacher": "train", "epochs": 20, "learning_rate": 0.02},
                {"stage": "export"},
                {"stage": "quantize"},
            ],
            "gates": {"accuracy": {"max_drop": 0.03}},
            "benchmark": {"runtimes": ["torch", "onnxruntime", "openvino"]},
        }
    )
    result = lissom.run(recipe, out=out)
    for gate in result.report.gates:
        print(f"{gate.name:<11} {gate.state:<13} {gate.measured}")
    print(result.report.verdict.sentence)
    labels, scores = lissom.predict(result.artifact, {"wave": waves().inputs["wave"][:3]})
    for label, score in zip(labels, scores.max(axis=1), strict=True):
        print(f"{label}: {score:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/waves"))
