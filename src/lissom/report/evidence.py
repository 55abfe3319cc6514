"""What was measured, as it is kept beside each artifact: one record an artifact, all of one measurement.

Records of one measurement share a key: a hash of the artifacts, the settings, the machine and the engines.
Those with the right key are used again, so that a rerun neither measures twice nor changes its choice. They
are written while it is measured, with `complete: false`; such records are kept until the next try, and never
used again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lissom.artifact import Artifact, content_id
from lissom.bench.environment import environment
from lissom.bench.selection import ArmKey
from lissom.models.data import Data
from lissom.optional import version
from lissom.recipe import BenchmarkConfig
from lissom.registry import runtime_entry
from lissom.runtime.machine import host, machine

EVIDENCE_SCHEMA = "lissom.evidence/5"
OF_THE_PAIR = ("batch_sizes", "slo_ms", "load_seconds")
"""Settings of what is measured of two arms only, once all were."""
Record = dict[str, Any]


def measurement_key(
    artifacts: Sequence[Artifact], config: BenchmarkConfig, arms: Sequence[ArmKey], data: Data
) -> str:
    """What ties the evidence of one measurement together."""
    runtimes = sorted({arm.runtime for arm in arms})
    return content_id(
        {
            "artifacts": [artifact.digest for artifact in artifacts],
            "benchmark": config.model_dump(mode="json", exclude={"runtimes", *OF_THE_PAIR}),
            "arms": [list(arm) for arm in arms],
            "splits": data.split_hashes,
            "evidence": EVIDENCE_SCHEMA,
            "engines": {name: version(runtime_entry(name).distribution) for name in runtimes},
            "machine": machine(),
        }
    )


def find_evidence(artifacts: Sequence[Artifact], key: str) -> dict[str, dict[str, Any]] | None:
    """The records of a measurement by artifact, or None when one is missing."""
    found: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        records = [
            record
            for record in artifact.evidence()
            if record.get("measurement") == key and record["complete"]
        ]
        if not records:
            return None
        found[artifact.name] = records[-1]
    return found


class Writer:
    """Writes the records of one measurement, again and again while it goes on.

    Attributes:
        key: What ties them together.
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        config: BenchmarkConfig,
        key: str,
        *,
        judged_by: Mapping[str, str],
    ) -> None:
        """Begin; nothing is written yet.

        Args:
            artifacts: Those that are measured.
            config: How.
            key: Of the measurement.
            judged_by: Task and name of the score, for labelled data.
        """
        self.key = key
        self._artifacts, self._config, self._judged_by = artifacts, config, judged_by
        self._started, self._environment = now(), environment()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self._name = f"{host()}-{stamp}-{key[:8]}"
        self._works: Mapping[str, Mapping[str, Any]] = {}
        self._ceilings: Mapping[str, Any] | None = None

    def know(self, works: Mapping[str, Mapping[str, Any]], ceilings: Mapping[str, Any]) -> None:
        """Keep the work of every artifact, and what the machine can do at most, in what is written next."""
        self._works, self._ceilings = works, ceilings

    def write(
        self,
        figures: Mapping[ArmKey, Mapping[str, Any]],
        readings: Sequence[Mapping[str, Any]],
        *,
        complete: bool,
    ) -> dict[str, Record]:
        """Put what is known now in the place of what was written before; gives it by artifact."""
        shared = {
            "schema": EVIDENCE_SCHEMA,
            "measurement": self.key,
            "complete": complete,
            "started": self._started,
            "finished": now(),
            "benchmark": self._config.model_dump(mode="json"),
            "environment": self._environment,
            "readings": list(readings),
            "ceilings": self._ceilings,
            **self._judged_by,
        }
        records: dict[str, Record] = {}
        for artifact in self._artifacts:
            records[artifact.name] = record = shared | {
                "artifact": {"id": artifact.id, "digest": artifact.digest, "name": artifact.name},
                "work": self._works.get(artifact.name),
                "runtimes": {
                    arm.runtime: dict(found)
                    for arm, found in figures.items()
                    if arm.artifact == artifact.name
                },
            }
            written = artifact.add_evidence(record, name=self._name)
            if complete:  # and not before: what an earlier try left is better than nothing
                artifact.forget_evidence(self.key, but=written)
        return records


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
