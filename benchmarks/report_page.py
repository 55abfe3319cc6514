"""Whether the page of a large report stays small and quick.

    python benchmarks/report_page.py [--only page browser harm] [--trials N]

    page      fifty artifacts on two runtimes each, all that a report holds: bytes of HTML, seconds to draw it
    browser   the same page in a headless Chromium: seconds from the navigation until the plots in view are
              drawn, and until every plot is
    harm      who is harmed, of 10,000 samples in 100 classes

The report is that of a real run of the whole chain, its stages and arms repeated with other figures, its
answers drawn anew for 10,000 samples, its flips pictures as hard to pack as photographs.

Writes benchmarks/results/report_page_<hardware>_<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import lissom
from lissom.bench.environment import environment
from lissom.report.harm import harm_of
from lissom.report.pages import html_from_report
from lissom.report.reading import chosen_arm, trusted_arm
from lissom.report.schema import Arm, CertaintyFigures, Flip, Report
from lissom.runtime.machine import host

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
NUM_ARTIFACTS, NUM_SAMPLES, NUM_FLIPS, NUM_LAYERS = 50, 10_000, 48, 200
RECIPE: dict[str, Any] = {
    "name": "page",
    "data": {"source": "digits"},
    "model": {"source": "resnet", "kwargs": {"widths": [16, 32], "blocks": [1, 1]}},
    "stages": [
        {"stage": "train", "epochs": 2, "learning_rate": 0.05},
        {"stage": "prune", "ratio": 0.5},
        {"stage": "distill", "teacher": "train", "epochs": 2},
        {"stage": "export"},
        {"stage": "quantize"},
    ],
    "benchmark": {"runtimes": ["torch", "onnxruntime"], "threads": 1, "num_rounds": 24, "round_ms": 4.0},
    "ship": "last",
}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
WATCH = """
new MutationObserver(() => {
  const plots = [...document.querySelectorAll(".chart")];
  const inView = plots.filter((plot) => plot.getBoundingClientRect().top < innerHeight);
  if (!plots.some((plot) => plot.dataset.drawn)) return;
  if (inView.every((plot) => plot.dataset.drawn)) window.viewDrawn ??= performance.now();
  if (plots.every((plot) => plot.dataset.drawn)) window.allDrawn ??= performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-drawn"] });
"""
DRAWN = "return [window.viewDrawn ?? null, window.allDrawn ?? null]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--trials", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = small(Path(place))
        found = {name: PARTS[name](report, Path(place), given.trials) for name in given.only}
    write(found)


def small(folder: Path) -> Report:
    path = folder / "page.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return lissom.run(path, out=folder / "run").report


def large(report: Report, num_classes: int = 10) -> Report:
    """Fifty artifacts on two runtimes each; the reference and the chosen arm stay what they are."""
    chance = np.random.default_rng(0)
    stages = tuple(
        report.stages[index % len(report.stages)].model_copy(update={"name": name, "parents": parents})
        for index, (name, parents) in enumerate(chain(report))
    )
    steps = tuple(
        report.waterfall[index % len(report.waterfall)].model_copy(update={"stage": stage.name})
        for index, stage in enumerate(stages)
    )
    arms = [arm for arm in report.arms if arm.latency]
    while len(arms) < 2 * NUM_ARTIFACTS:
        stage = stages[len(report.stages) + (len(arms) % (len(stages) - len(report.stages)))]
        arms.append(another(arms[len(arms) % len(report.arms)], stage.name, len(arms), chance))
    changed = {
        "stages": stages,
        "waterfall": steps,
        "arms": tuple(arms),
        "labels": tuple(f"class {index}" for index in range(num_classes)),
        "layers": layers(report),
        "readings": report.readings * 20,
    }
    return answered(report.model_copy(update=changed), chance)


def chain(report: Report) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and parents of each stage, the own ones of the run first."""
    yield from ((stage.name, stage.parents) for stage in report.stages)
    last = report.stages[-1].name
    for index in range(len(report.stages), NUM_ARTIFACTS):
        yield (name := f"stage-{index}"), (last,)
        last = name


def another(arm: Arm, name: str, index: int, chance: np.random.Generator) -> Arm:
    """An arm of other speed and score; the second of a stage is on another runtime."""
    assert arm.latency is not None
    factor = float(chance.lognormal(0, 0.6))
    median = arm.latency.median_ms
    latency = arm.latency.model_copy(
        update={
            "median_ms": median.model_copy(
                update={key: factor * value for key, value in median.model_dump().items()}
            ),
            "rounds_ms": tuple(tuple(factor * value for value in one) for one in arm.latency.rounds_ms),
        }
    )
    score = arm.accuracy
    if score:
        lost = float(chance.uniform(0, 0.05))
        score = score.model_copy(update={"report": score.report - lost})
    runtime = ("onnxruntime", "openvino")[index // NUM_ARTIFACTS]
    fields = {"artifact": name, "runtime": runtime, "latency": latency, "accuracy": score, "chosen": False}
    return arm.model_copy(update=fields)


def layers(report: Report) -> Any:
    if report.layers is None:
        return None
    changes = report.layers.changes * (NUM_LAYERS // len(report.layers.changes) + 1)
    named = (one.model_copy(update={"name": f"{one.name}.{index}"}) for index, one in enumerate(changes))
    return report.layers.model_copy(update={"changes": tuple(named)[:NUM_LAYERS]})


def answered(report: Report, chance: np.random.Generator) -> Report:
    """Answers of every arm, certainty of two, and flips with pictures."""
    num_classes = len(report.labels)
    labels = chance.integers(0, num_classes, NUM_SAMPLES)

    def answers() -> tuple[int, ...]:
        wrong = chance.random(NUM_SAMPLES) < 0.1
        return tuple(np.where(wrong, chance.integers(0, num_classes, NUM_SAMPLES), labels).tolist())

    told = {f"{arm.artifact}/{arm.runtime}": answers() for arm in report.arms}
    pair = [f"{arm.artifact}/{arm.runtime}" for arm in (trusted_arm(report), chosen_arm(report)) if arm]
    shares = {key: tuple(chance.random(NUM_SAMPLES).tolist()) for key in ("confidence", "likelihood", "kl")}
    right = [np.asarray(told[name]) == labels for name in pair]
    places = np.flatnonzero(right[0] != right[1])[:NUM_FLIPS]
    changed = {
        "samples": tuple(f"{index:016x}" for index in range(NUM_SAMPLES)),
        "labels": tuple(labels.tolist()),
        "arms": told,
        "certainty": {name: CertaintyFigures(**shares) for name in pair},
        "flips": tuple(Flip(place=int(place), picture=picture(chance), text=None) for place in places),
    }
    return report.model_copy(update={"predictions": report.predictions.model_copy(update=changed)})


def picture(chance: np.random.Generator) -> str:
    """A smooth slope with noise, which a PNG makes about as small as a photograph."""
    from PIL import Image

    slope = np.add.outer(np.linspace(0, 90, 96), np.linspace(20, 120, 96))[..., None]
    values = slope + chance.normal(0, 8, (96, 96, 3))
    content = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def page(report: Report, folder: Path, trials: int) -> dict[str, Any]:
    del folder
    full = large(report)
    html, seconds = timed(lambda: html_from_report(full), trials)
    return {"artifacts": len(full.stages), "arms": len(full.arms), "bytes": len(html.encode()), "s": seconds}


def browser(report: Report, folder: Path, trials: int) -> dict[str, Any]:
    """A fresh Chromium each time, so that nothing is compiled already."""
    file = folder / "page.html"
    file.write_text(html_from_report(large(report)), encoding="utf-8")
    seconds: list[list[float]] = []
    plots, version = 0, ""
    for _ in range(trials):
        with chromium(folder) as driver:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            driver.get(file.as_uri())
            until = time.monotonic() + 60
            while None in (drawn := driver.execute_script(DRAWN)):
                assert time.monotonic() < until, "not every plot was drawn"
                time.sleep(0.05)
            seconds.append([moment / 1e3 for moment in drawn])
            plots = driver.execute_script("return document.querySelectorAll('.chart').length")
            version = driver.capabilities["browserVersion"]
    in_view, every = (list(own) for own in zip(*seconds, strict=True))
    return {"chromium": version, "plots": plots, "in_view_s": in_view, "every_s": every}


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    profile = tempfile.mkdtemp(dir=folder)
    for flag in (*FLAGS, "--window-size=1280,900", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()


def harm(report: Report, folder: Path, trials: int) -> dict[str, Any]:
    del folder
    full = large(report, num_classes=100)
    found, seconds = timed(lambda: harm_of(full), trials)
    assert found is not None
    return {"samples": found.num_samples, "classes": len(found.classes), "s": seconds}


def timed(work: Callable[[], Any], trials: int) -> tuple[Any, list[float]]:
    """What the work gives, and its seconds each time; the first, which imports, is not counted."""
    found, seconds = work(), []
    for _ in range(trials):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return found, seconds


PARTS: dict[str, Callable[[Report, Path, int], dict[str, Any]]] = {
    "page": page,
    "browser": browser,
    "harm": harm,
}


def write(found: dict[str, Any]) -> None:
    state, today = environment(), datetime.now(UTC).date().isoformat()
    path = RESULTS / f"report_page_{host().lower()}_{today}"
    file = path.with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {}  # parts that were measured today
    found = {name: {**before, **found}[name] for name in PARTS if name in {**before, **found}}
    file.write_text(json.dumps({"environment": state, **found}, indent=1) + "\n")
    lines = [
        "# The page of a report",
        "",
        f"{state['cpu']} ({', '.join(state['isa'])}), {state['cores']} cores, {today}. Seconds are the "
        "median, then the least and the most.",
        "",
        "| what | at most | measured |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for name, figures in found.items() for row in ROWS[name](figures)),
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def spread(seconds: list[float]) -> str:
    return f"{np.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def page_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    what = f"a report of {found['artifacts']} artifacts, {found['arms']} arms"
    return [
        (f"{what}: the HTML", "8 MB", f"{found['bytes'] / 1e6:.1f} MB"),
        ("drawing it", "5 s", spread(found["s"])),
    ]


def browser_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    what = f"Chromium {found['chromium'].partition('.')[0]}, from opening until the plots"
    return [
        (f"{what} in view are drawn", "2 s", spread(found["in_view_s"])),
        (f"until all {found['plots']} are, while nothing else is to do", "", spread(found["every_s"])),
    ]


def harm_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    what = f"who is harmed, {found['samples']:,} samples in {found['classes']} classes"
    return [(what, "10 s", spread(found["s"]))]


ROWS: dict[str, Callable[[Mapping[str, Any]], list[tuple[str, str, str]]]] = {
    "page": page_rows,
    "browser": browser_rows,
    "harm": harm_rows,
}


if __name__ == "__main__":
    main()
