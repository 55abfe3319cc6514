"""A report says in a sentence what its figures alone would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.report import samples
from tests.unit.small import blobs, load

from lissom.artifact import Artifact
from lissom.cli.views import finished, reported
from lissom.pipeline import Result
from lissom.report.pages import html_from_report, markdown_from_report
from lissom.report.remarks import find_remarks, sparse_remark, taught_remark, unvalidated_remark

SPARSITY = {"pattern": "unstructured", "share": 0.5, "raw_bytes": 1_200_000, "compressed_bytes": 700_000}
SENTENCES = ("distill: the teacher helped.", "A <b>second</b> one | with *stars*.")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load(tmp_path_factory.mktemp("remarks") / "made", blobs(), "mlp", hidden=[4])


def noted(artifact: Artifact, name: str, stage: str, **notes: Any) -> Artifact:
    """The artifact as if another stage had made it."""
    manifest = artifact.manifest.model_copy(update={"name": name, "stage": stage, "notes": notes})
    return Artifact(artifact.path, manifest, artifact.digest)


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ((0.012, 0.001, 0.023), "the teacher helped: accuracy +1.2 points (95 % +0.1 to +2.3) over the same"),
        (
            (-0.02, -0.03, -0.01),
            "the teacher hurt: accuracy −2.0 points (95 % −3.0 to −1.0) against the same",
        ),
        (
            (0.02, -0.01, 0.05),
            "no difference was shown to the same training without the teacher: accuracy +2.0",
        ),
        ((0.0, -0.01, 0.01), "no difference was shown"),
        ((0.02, 0.0, 0.04), "no difference was shown"),
    ],
)
def test_a_teacher_helped_only_when_the_interval_leaves_zero_out(
    gain: tuple[float, float, float], said: str
) -> None:
    found = taught_remark("distill", dict(zip(("value", "low", "high"), gain, strict=True)), "accuracy")
    assert found.startswith(f"distill: {said}")


def test_every_distilled_stage_with_a_baseline_gets_a_sentence(artifact: Artifact) -> None:
    gain = {"value": 0.01, "low": 0.005, "high": 0.02}
    stages = [
        noted(artifact, "train", "train", history=[]),
        noted(artifact, "one", "distill", gain=gain),
        noted(artifact, "two", "distill", history=[]),
        noted(artifact, "three", "distill", gain=gain),
    ]
    found = find_remarks(stages, stages[:1], runtime="torch", score_name="token accuracy")
    assert [remark.partition(":")[0] for remark in found] == ["one", "three"]
    assert all("token accuracy +1.0 points" in remark for remark in found)


def test_zeros_are_told_of_the_chosen_lineage_and_of_the_last_stage_that_made_them(
    artifact: Artifact,
) -> None:
    first = noted(artifact, "first", "prune", sparsity=SPARSITY | {"share": 0.3})
    second = noted(artifact, "second", "prune", sparsity=SPARSITY)
    other = noted(artifact, "other", "prune", sparsity=SPARSITY)
    (found,) = find_remarks(
        [first, second, other], [first, second], runtime="openvino", score_name="accuracy"
    )
    assert found == (
        "second: 50.0\xa0% of the weights are zero (unstructured): 1.20\xa0MB as stored, "
        "700\xa0kB compressed. The zeros give no speed on openvino, which multiplies "
        "by them as by any number."
    )
    assert find_remarks([first], [], runtime=None, score_name="accuracy") == ()


@pytest.mark.parametrize(
    ("pattern", "runtime", "slow"),
    [
        ("2:4", "onnxruntime", True),
        ("2:4", "tensorrt", False),
        ("unstructured", "tensorrt", True),
        ("2:4", "torch", True),
    ],
)
def test_zeros_give_speed_only_where_the_runtime_skips_them(pattern: str, runtime: str, slow: bool) -> None:
    assert ("no speed" in sparse_remark("prune", SPARSITY | {"pattern": pattern}, runtime)) is slow


def test_remarks_are_in_every_view_of_a_report_and_cannot_break_a_page(
    tmp_path: Path, artifact: Artifact
) -> None:
    report = samples.typical(remarks=SENTENCES)
    page, text = html_from_report(report), markdown_from_report(report)
    assert '<h2 id="remarks">Remarks</h2>' in page
    assert "<li>distill: the teacher helped.</li>" in page
    assert "A &lt;b&gt;second&lt;/b&gt; one" in page
    assert (
        "### Remarks\n\n- distill: the teacher helped.\n- A &lt;b>second&lt;/b> one \\| with \\*stars\\*."
        in text
    )
    outcomes = finished(Result(tmp_path, artifact, report, ())), reported(report, tmp_path)
    assert all(set(SENTENCES) <= set(outcome.lines) for outcome in outcomes)
    assert all(outcome.extra["remarks"] == list(SENTENCES) for outcome in outcomes)


def test_a_report_without_remarks_has_no_section() -> None:
    report = samples.typical()
    assert report.remarks == ()
    assert "Remarks" not in html_from_report(report)
    assert "Remarks" not in markdown_from_report(report)


def test_of_the_chosen_lineage_it_is_told_what_quantize_could_not_do(artifact: Artifact) -> None:
    worst = [{"name": f"layer_{number}", "sqnr_db": 10.0 + number} for number in range(5)]
    lineage = [
        noted(artifact, "first", "quantize", target="tensorrt", validated_here=False),
        noted(artifact, "second", "quantize", goal_reached=False, worst_layers=worst),
        noted(artifact, "third", "quantize", goal_reached=False),
        noted(artifact, "fourth", "quantize", kept_float=["GRU"]),
        noted(artifact, "fifth", "quantize", target="x86", validated_here=True, goal_reached=True),
        noted(artifact, "other", "export", kept_float=["GRU"]),
    ]
    found = find_remarks(lineage, lineage, runtime="onnxruntime", score_name="accuracy")
    assert [remark.partition(":")[0] for remark in found] == ["first", "second", "third", "fourth"]
    assert "made for tensorrt and not validated there: this machine is" in found[0]
    assert found[1].replace("\u00a0", " ") == (
        "second: its goal was not reached; the noisiest layers are layer_0 (10.0 dB), layer_1 (11.0 dB) and "
        "layer_2 (12.0 dB)."
    )
    assert found[2] == "third: its goal was not reached."
    assert found[3] == "fourth: GRU stays in float32: ONNX Runtime has no int8 form of it."
    assert find_remarks(lineage, [], runtime=None, score_name="accuracy") == ()


@pytest.mark.parametrize(
    ("target", "made_on", "machine"),
    [
        ("tensorrt", {"architecture": "x86_64", "gpus": []}, "x86_64 without a GPU"),
        ("arm", {"architecture": "x86_64", "gpus": []}, "x86_64"),
        ("x86", {"architecture": "aarch64", "gpus": ["NVIDIA H100"]}, "aarch64"),
    ],
)
def test_a_foreign_target_is_told_beside_this_machine(
    target: str, made_on: dict[str, Any], machine: str
) -> None:
    found = unvalidated_remark("quantize", target, made_on)
    assert found == f"quantize: made for {target} and not validated there: this machine is {machine}."
