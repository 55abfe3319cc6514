"""Train a model for a task that lissom does not know: a forecast with an interval around it.

Run it where it lies: `python examples/own_task.py`. A task is a loss, the answer that is read off an output,
and a score for each answer; training, gates, report and `lissom evaluate` go by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lissom

HERE = Path(__file__).resolve()
LEVELS = torch.tensor([0.05, 0.5, 0.95])


class Forecast(lissom.Task):
    """The 5 %, 50 % and 95 % quantile of a value; good when the truth lies between the outer two."""

    score_name = "coverage"
    output_name = "quantiles"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The pinball loss, which is least at the true quantiles."""
        error = targets[:, None] - outputs
        return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """All three quantiles, [samples, 3]."""
        return outputs

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """True where the truth lies in the interval, [samples]."""
        covered: np.ndarray = (predictions[:, 0] <= targets) & (targets <= predictions[:, 2])
        return covered

    def metrics(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Coverage alone is easy to reach with wide intervals, so their width is told too."""
        widths = [outputs[:, 2] - outputs[:, 0] for outputs, _ in batches]
        return {"mean_width": float(np.concatenate(widths).mean())}


def build() -> nn.Module:
    """Four readings to three quantiles."""
    return nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 3))


def readings() -> lissom.Dataset:
    """Four readings, and the value that follows, with noise that grows with the first reading."""
    generator = np.random.default_rng(0)
    inputs = generator.uniform(-1, 1, (2000, 4)).astype(np.float32)
    noise = 0.1 * (1.5 + inputs[:, 0]) * generator.normal(size=2000)
    return lissom.Dataset({"readings": inputs}, np.sin(2 * inputs[:, 1]) + inputs[:, 2] + noise)


def main(out: Path) -> None:
    """Train, export, and tell how good the intervals are on ONNX Runtime."""
    recipe = lissom.Recipe.from_document(
        {
            "name": "forecast",
            "model": {"source": f"{HERE}:build", "task": f"{HERE}:Forecast"},
            "data": {"source": f"{HERE}:readings"},
            "stages": [
                {"stage": "train", "epochs": 40, "optimizer": "adamw", "learning_rate": 0.01, "ema": 0.95},
                {"stage": "export"},
            ],
            "benchmark": {"runtimes": ["torch", "onnxruntime"]},
        }
    )
    result = lissom.run(recipe, out=out)
    found = lissom.evaluate(result.artifact)
    print(f"{found.score_name} {found.score:.1%} of {found.num_samples}, {found.metrics}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/forecast"))
