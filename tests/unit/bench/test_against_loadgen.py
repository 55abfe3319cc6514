"""Our bounds are those of MLPerf's LoadGen, on the samples that it took itself."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lissom.bench.percentiles import early_stopping, num_discarded

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="LoadGen has no wheel for this machine",
)

RUN = """
import random, sys, time
import mlperf_loadgen as loadgen

generator = random.Random(int(sys.argv[2]))

def issue(samples):
    until = time.perf_counter() + generator.expovariate(1 / 0.0002)
    while time.perf_counter() < until:
        pass
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

system = loadgen.ConstructSUT(issue, lambda: None)
library = loadgen.ConstructQSL(64, 64, lambda samples: None, lambda samples: None)
settings, log = loadgen.TestSettings(), loadgen.LogSettings()
settings.scenario = loadgen.TestScenario.SingleStream
settings.mode = loadgen.TestMode.PerformanceOnly
settings.min_duration_ms, settings.min_query_count = 500, int(sys.argv[3])
log.log_output.outdir = sys.argv[1]
log.enable_trace = True
loadgen.StartTestWithLogSettings(system, library, settings, log)
loadgen.DestroyQSL(library)
loadgen.DestroySUT(system)
"""


@pytest.mark.parametrize(("seed", "least"), [(1, 800), (2, 2500)])
def test_the_bounds_are_those_of_loadgen(tmp_path: Path, seed: int, least: int) -> None:
    words = [sys.executable, "-c", RUN, str(tmp_path), str(seed), str(least)]
    subprocess.run(words, check=True, timeout=120, capture_output=True)
    trace = (tmp_path / "mlperf_log_trace.json").read_text()  # which is not always sound JSON
    found = re.findall(r'"complete_ns":(\d+)', trace)
    ordered = np.sort(np.asarray(found, dtype=np.float64))
    summary = (tmp_path / "mlperf_log_summary.txt").read_text()
    told = {
        float(share) / 100: float(value)
        for share, value in re.findall(r"Early stopping ([\d.]+)th percentile estimate: (\d+)", summary)
    }
    assert set(told) == {0.9, 0.99}
    for share, bound in told.items():
        assert early_stopping(ordered, share) == bound, share
    discarded = re.search(r"Would discard (\d+) highest", summary)
    assert discarded is not None
    assert num_discarded(len(ordered), 0.9) == int(discarded[1]) + 1
