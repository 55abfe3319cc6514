"""A report for other programs: its arms as CSV, its gates as JUnit for continuous integration."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from xml.etree import ElementTree

from lissom.report.reading import stage_row
from lissom.report.schema import Arm, Gate, Report

COLUMNS = (
    *("run", "artifact", "runtime", "version", "format", "precision", "chosen", "eligible", "error"),
    *("size_bytes", "num_parameters", "flops", "median_ms", "median_ms_low", "median_ms_high"),
    *("p99_ms", "p99_ms_at_most", "speedup_eager", "score", "drop", "drop_low", "drop_high"),
    *("num_lost", "num_gained", "num_flipped", "open_ms", "first_ms", "peak_bytes"),
)


def csv_of(reports: Sequence[Report]) -> str:
    """One line an arm, figures as they are, empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for report in reports:
        for arm in report.arms:
            writer.writerow(_row(report, arm))
    return text.getvalue()


def _row(report: Report, arm: Arm) -> dict[str, object]:
    stage, latency, score = stage_row(report, arm.artifact), arm.latency, arm.accuracy
    row: dict[str, object] = {
        "run": report.name,
        "artifact": arm.artifact,
        "runtime": arm.runtime,
        "version": arm.version,
        "precision": arm.precision_requested,
        "chosen": arm.chosen,
        "eligible": arm.eligible,
        "error": arm.error,
        "open_ms": arm.open_ms,
        "first_ms": arm.first_ms,
        "peak_bytes": arm.memory.peak_bytes if arm.memory else None,
        "speedup_eager": arm.speedup_eager.value if arm.speedup_eager else None,
    }
    if stage:
        row |= {
            "format": stage.format,
            "size_bytes": stage.size_bytes,
            "num_parameters": stage.num_parameters,
            "flops": stage.flops,
        }
    if latency:
        p99 = latency.percentile(0.99)
        row |= {
            "median_ms": latency.median_ms.value,
            "median_ms_low": latency.median_ms.low,
            "median_ms_high": latency.median_ms.high,
            "p99_ms": p99.value_ms if p99 else None,
            "p99_ms_at_most": p99.bound_ms if p99 else None,
        }
    if score:
        row |= {
            "score": score.report,
            "drop": score.drop.value,
            "drop_low": score.drop.low,
            "drop_high": score.drop.high,
            "num_lost": score.num_lost,
            "num_gained": score.num_gained,
            "num_flipped": score.num_flipped,
        }
    return row


def junit_of(gates: Sequence[Gate], *, suite: str, name: str) -> bytes:
    """A test case for each gate: a failure that was not allowed fails, what is open is skipped.

    Args:
        gates: That were judged.
        suite: Name of the test suite.
        name: Of the class that the test cases belong to.
    """
    failed = [gate for gate in gates if gate.state == "fail" and not gate.allowed]
    skipped = [gate for gate in gates if gate.state in ("skipped", "inconclusive")]
    counts = {"tests": len(gates), "failures": len(failed), "skipped": len(skipped)}
    root = ElementTree.Element("testsuite", {"name": suite} | {k: str(v) for k, v in counts.items()})
    for gate in gates:
        case = ElementTree.SubElement(root, "testcase", {"classname": name, "name": gate.name})
        text = f"{gate.measured}; {gate.limit}; {gate.reason}"
        if gate in failed:
            ElementTree.SubElement(case, "failure", {"message": text})
        elif gate in skipped:
            ElementTree.SubElement(case, "skipped", {"message": f"{gate.state}: {text}"})
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content
