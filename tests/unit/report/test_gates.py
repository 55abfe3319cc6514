"""What the gates say of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.small import blobs, load

from lissom.artifact import Artifact
from lissom.recipe import GatesConfig
from lissom.report.gates import accuracy_gate, parity_gate, reload_gate

CONFIG = GatesConfig.model_validate({"accuracy": {"max_drop": 0.01}})
RIGHT = np.arange(1000) >= 30


def test_of_right_answers_the_gate_counts_the_lost_and_the_gained() -> None:
    candidate = RIGHT.copy()
    candidate[[0, 500, 501]] ^= True
    gate = accuracy_gate(RIGHT, candidate, CONFIG)
    assert gate.state == "pass"
    assert gate.reason.startswith("proven: 2 right answers lost and 1 gained on 1000 samples; 95 % upper")


@pytest.mark.parametrize(
    ("drop", "state", "proof"),
    [(0.002, "pass", "proven"), (0.0095, "pass", "not proven, needs"), (0.05, "fail", "over the budget")],
)
def test_of_other_scores_the_gate_counts_those_that_fell_and_rose(
    drop: float, state: str, proof: str
) -> None:
    generator = np.random.default_rng(2)
    reference = generator.random(1000)
    noise = generator.normal(0, 0.02, 1000)
    candidate = reference - drop + noise - noise.mean()
    candidate[0] = reference[0]
    gate = accuracy_gate(reference, candidate, CONFIG, score_name="token accuracy")
    fell, rose = int((candidate < reference).sum()), int((candidate > reference).sum())
    assert gate.state == state
    assert gate.reason.startswith(proof)
    assert f"token accuracy fell on {fell} and rose on {rose} of 1000 samples" in gate.reason
    assert gate.measured.startswith(f"{-drop * 100:+.2f} points")


def test_without_labels_the_gate_is_skipped() -> None:
    assert accuracy_gate(None, None, CONFIG, score_name="skill").state == "skipped"


@pytest.mark.parametrize(
    ("passed", "layers", "ending"),
    [
        (False, 4, "export; its noisiest layers: layer_0 (10.0 dB), layer_1 (11.0 dB) and layer_2 (12.0 dB)"),
        (False, 0, "differs from export"),
        (True, 4, "agrees with export"),
    ],
)
def test_a_parity_that_fails_names_the_noisiest_layers(
    tmp_path: Path, passed: bool, layers: int, ending: str
) -> None:
    made = load(tmp_path / "made", blobs(), "mlp", hidden=[4])
    worst = [{"name": f"layer_{number}", "sqnr_db": 10.0 + number} for number in range(layers)]
    notes = {"worst_layers": worst} if worst else {}
    manifest = made.manifest.model_copy(update={"name": "quantize", "notes": notes})
    output: dict[str, Any] = {
        "output": "logits",
        "passed": passed,
        "max_abs_error": 0.4,
        "sqnr_db": 12.0,
        "top1_agreement": 0.9,
        "limit": "98 %",
    }
    parity = {"parity": {"against": "export", "outputs": [output]}}
    records = {"quantize": {"runtimes": {"onnxruntime": parity}}}
    gate = parity_gate([Artifact(made.path, manifest, made.digest)], records, "onnxruntime")
    assert gate.state == ("pass" if passed else "fail")
    assert gate.reason.replace("\u00a0", " ").endswith(ending)


def test_a_gate_that_fails_names_what_draws_random_numbers(tmp_path: Path) -> None:
    made = load(tmp_path / "made", blobs(), "mlp", hidden=[4])
    manifest = made.manifest.model_copy(update={"name": "export", "format": "onnx"})
    still = Artifact(made.path, manifest, made.digest)
    noisy = manifest.model_copy(update={"notes": {"random_nodes": ["noise", "sample"]}})
    drawing = Artifact(made.path, noisy, made.digest)
    probe = {"probe": {"passed": False, "max_abs_error": 0.9}}
    records = {"export": {"runtimes": {"onnxruntime": probe}}}
    assert reload_gate([drawing], records).reason.endswith("random numbers are drawn by noise and sample")
    assert reload_gate([still], records).reason.endswith("the outputs stored when it was made")
