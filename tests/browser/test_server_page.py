"""The page of the server in a real Chromium: a digit is drawn, a picture sent, an answer explained."""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from sklearn.datasets import load_digits
from tests.browser.test_report_page import (
    ActionChains,
    Browser,
    Keys,
    WebDriverWait,
    browser,
    pytestmark,
)
from tests.unit.report import samples
from tests.unit.serve.pictures import digits_artifact, linear_artifact
from tests.unit.serve.test_page import LETTERS

from lissom.artifact import Artifact, InputRange
from lissom.report.pages import html_from_report
from lissom.serve.app import Application
from lissom.serve.keys import Keys as ApiKeys
from lissom.serve.keys import add_key
from lissom.serve.repository import Repository, State

exceptions = pytest.importorskip("selenium.common.exceptions", reason="selenium is not installed")

__all__ = ["browser", "pytestmark"]
HOSTILE = "<img src=x onerror=window.hacked=1>'\" a%20?#"
SECONDS = 20
RING = [(math.sin(2 * math.pi * step / 20), -math.cos(2 * math.pi * step / 20)) for step in range(21)]
NO_SCROLL = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@contextmanager
def running(
    artifacts: Sequence[Artifact], *, keys: ApiKeys | None = None
) -> Iterator[tuple[str, Application]]:
    """A server on a free port, and its application."""
    paths = [artifact.path for artifact in artifacts]
    with Repository.open(paths, runtime="onnxruntime", threads=1) as repository:
        app = Application(repository, keys=keys)
        server = uvicorn.Server(
            uvicorn.Config(app, port=0, lifespan="off", log_level="error", access_log=False)
        )
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        try:
            wait_until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}/", app
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """A model of every kind; the first really knows digits, and its run has a report."""
    folder = tmp_path_factory.mktemp("runs")
    first = digits_artifact(folder / "digits" / "05-export")
    (folder / "digits" / "report.json").write_text("{}")
    (folder / "digits" / "report.html").write_text(html_from_report(samples.typical()), encoding="utf-8")
    rows = np.random.default_rng(0).random((2, 4))
    labels = ("one", HOSTILE, "a long name of a class, as some data sets have them")
    return [
        first,
        linear_artifact(folder / "text", LETTERS, name="tokens", recipe="letters"),
        linear_artifact(
            folder / "rows", rows, bias=np.array([1, 2, 0]), name="row", recipe="rows", labels=labels
        ),
        linear_artifact(folder / "hostile", rows, name=HOSTILE, recipe=HOSTILE, labels=(HOSTILE, "b")),
    ]


@pytest.fixture(scope="module")
def url(artifacts: list[Artifact]) -> Iterator[str]:
    """A server of every model."""
    with running(artifacts) as (url, app):
        assert app.repository is not None
        app.repository.absent["gone"] = (State.UNLOADED, f"it was unloaded {HOSTILE}")
        yield url


def visit(
    browser: Browser, url: str, *, width: int = 1280, scheme: str = "light", phone: bool = False
) -> None:
    """Open the page anew, and wait until it shows a model or asks for a key."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone or width < 600}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.driver.get("about:blank")
    for log in ("browser", "performance"):
        browser.driver.get_log(log)
    browser.driver.get(url)
    wait_until(
        lambda: browser.all("#model-title") or browser.run("!document.getElementById('key-form').hidden")
    )


def wait_until(condition: Any) -> Any:
    """What a condition gives once it gives something; elements may be drawn anew while it looks."""
    redrawn = (exceptions.StaleElementReferenceException, IndexError)
    waiting = WebDriverWait(None, SECONDS, poll_frequency=0.05, ignored_exceptions=redrawn)
    return waiting.until(lambda _: condition())


def draw(browser: Browser, points: Sequence[tuple[float, float]]) -> None:
    """One line with the mouse; points are -1 to 1 from the middle of the board."""
    pad = browser.all(".pad")[0]
    half = pad.size["width"] / 2.2
    places = [(round(half * x), round(half * y)) for x, y in points]
    actions = ActionChains(browser.driver, duration=10).move_to_element(pad)
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    actions.move_to_element_with_offset(pad, *places[0]).click_and_hold()
    for place in places[1:]:
        actions.move_to_element_with_offset(pad, *place)
    actions.release().perform()


def best(browser: Browser) -> str:
    """The label that is shown once there is an answer."""
    return str(wait_until(lambda: browser.all(".best .label")[0].text))


def foreign(browser: Browser, url: str) -> list[str]:
    """Addresses that were asked for, but for those of the server."""
    return [address for address in browser.requests if not address.startswith((url, "about:"))]


def num_coloured(browser: Browser) -> int:
    """Pixels of the map over the picture that are coloured."""
    return int(
        browser.driver.execute_script(
            "const map = document.querySelectorAll('.grain')[1];"
            "const { data } = map.getContext('2d').getImageData(0, 0, map.width, map.height);"
            "return data.filter((value, place) => place % 4 === 3 && value > 0).length;"
        )
    )


def file_of(folder: Path, place: int) -> Path:
    """A handwritten digit of the data set as a PNG."""
    levels = np.round(load_digits().images[place] * 255 / 16).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(levels).resize((160, 160), Image.Resampling.NEAREST).save(content, "PNG")
    (folder / "digit.png").write_bytes(content.getvalue())
    return folder / "digit.png"


def test_a_drawn_zero_is_answered_as_a_zero(browser: Browser, url: str) -> None:
    visit(browser, url)
    draw(browser, [(0.6 * x, 0.9 * y) for x, y in RING])
    assert best(browser) == "0"
    shares = [row.text.split("\n") for row in browser.all(".bars li")]
    assert len(shares) == 5
    assert shares[0][0] == "0"
    assert "ms until the answer was here" in browser.all(".timing")[0].text
    assert foreign(browser, url) == []
    assert browser.complaints == []


def test_a_drawn_one_is_answered_as_a_one_and_cleared(browser: Browser, url: str) -> None:
    visit(browser, url)
    draw(browser, [(0.05, -0.4 + 0.08 * step) for step in range(11)])
    assert best(browser) == "1"
    next(button for button in browser.all("button") if button.text == "Clear").click()
    assert browser.all(".best") == []
    browser.all("#predict")[0].click()
    assert wait_until(lambda: browser.all(".problem:not([hidden])")[0].text).startswith("Draw something")


def test_a_digit_is_drawn_by_the_keyboard_alone(browser: Browser, url: str) -> None:
    visit(browser, url)
    pad = browser.all(".pad")[0]
    browser.driver.execute_script("arguments[0].focus()", pad)
    for press in [Keys.ARROW_UP, *[Keys.ARROW_UP] * 4, Keys.SPACE, *[Keys.ARROW_DOWN] * 7, Keys.SPACE]:
        browser.driver.switch_to.active_element.send_keys(press)
    assert best(browser) in set("0123456789")
    assert (
        browser.run("document.querySelector('.unseen[aria-live]').textContent") == "Column 5, row 8, pen up"
    )


def test_a_digit_is_drawn_with_a_finger_and_the_page_does_not_move(browser: Browser, url: str) -> None:
    visit(browser, url, width=390)
    browser.driver.execute_script("document.querySelector('.pad').scrollIntoView({block: 'center'})")
    left, top, side, before = browser.run(
        "(({left, top, width}) => [left, top, width, scrollY])"
        "(document.querySelector('.pad').getBoundingClientRect())"
    )
    places = [{"x": left + side / 2 * (1 + 0.6 * x), "y": top + side / 2 * (1 + 0.85 * y)} for x, y in RING]
    browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        for place, point in enumerate(places):
            kind = "touchMove" if place else "touchStart"
            event = {"type": kind, "touchPoints": [point]}
            browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
        browser.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert best(browser) == "0"
        assert browser.run("scrollY") == before
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_picture_is_sent_as_it_is(browser: Browser, url: str, tmp_path: Path) -> None:
    visit(browser, url)
    browser.all("#upload")[0].send_keys(str(file_of(tmp_path, 3)))
    assert best(browser) == "3"
    assert browser.complaints == []


def test_a_file_that_is_no_picture_is_said_to_be_none(browser: Browser, url: str, tmp_path: Path) -> None:
    visit(browser, url)
    (tmp_path / "text.txt").write_text("no picture")
    browser.all("#upload")[0].send_keys(str(tmp_path / "text.txt"))
    assert (
        wait_until(lambda: browser.all(".problem:not([hidden])")[0].text)
        == "text.txt is neither PNG nor JPEG."
    )


@pytest.mark.parametrize("way", ["drawn", "uploaded"])
def test_an_answer_is_explained_over_the_picture(
    browser: Browser, url: str, tmp_path: Path, way: str
) -> None:
    visit(browser, url)
    if way == "drawn":
        draw(browser, [(0.6 * x, 0.9 * y) for x, y in RING])
    else:
        browser.all("#upload")[0].send_keys(str(file_of(tmp_path, 0)))
    assert best(browser) == "0"
    assert num_coloured(browser) == 0
    browser.all("#explain")[0].click()
    legend = wait_until(lambda: browser.all(".legend")[0].text)
    assert "speaks for “0”" in legend
    assert "of 8 × 8" in legend
    assert browser.complaints == []  # before the map is read again, which Chromium remarks on
    assert num_coloured(browser) > 10


def test_live_figures_change_with_every_answer_and_rest_while_the_tab_is_hidden(
    browser: Browser, url: str
) -> None:
    visit(browser, url)
    figures = lambda: [one.text for one in browser.all(".tile .figure")]  # noqa: E731
    before = browser.all(".counts")[0].text
    draw(browser, [(0.6 * x, 0.9 * y) for x, y in RING])
    best(browser)
    wait_until(lambda: browser.all(".counts")[0].text != before)
    wait_until(lambda: all("–" not in text for text in figures()))
    assert browser.run("document.querySelectorAll('.tile .line')[1].getAttribute('d')").startswith("M")
    assert browser.run("document.querySelector('.tile svg').getAttribute('aria-label')").startswith(
        "requests"
    )
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); "
    browser.driver.execute_script(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    time.sleep(0.5)  # what was asked before is answered
    browser.driver.get_log("performance")
    time.sleep(2.5)
    assert browser.requests == []
    browser.driver.execute_script(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(lambda: browser.requests)


def test_a_text_is_sent_as_text(browser: Browser, url: str) -> None:
    visit(browser, f"{url}#/letters")
    browser.all("#typed")[0].send_keys("what a text", Keys.CONTROL, Keys.ENTER)
    assert best(browser) in {"no", "yes"}
    assert browser.complaints == []


def test_rows_begin_as_zeros_and_what_the_server_refuses_is_said(browser: Browser, url: str) -> None:
    visit(browser, f"{url}#/rows")
    browser.all("#predict")[0].click()
    assert best(browser) == HOSTILE
    area = browser.all("#typed")[0]
    area.clear()
    area.send_keys('{"row": [[1, 2]]}')
    browser.all("#predict")[0].click()
    assert "the model takes [batch, 4]" in wait_until(lambda: browser.all(".problem:not([hidden])")[0].text)
    assert not browser.run("window.hacked")


def test_names_that_hold_markup_are_shown_as_they_are(browser: Browser, url: str) -> None:
    visit(browser, url)
    assert [link.text for link in browser.all("nav a")] == [
        "digits",
        "letters",
        "rows",
        HOSTILE,
        "gone unavailable",
    ]
    browser.all("nav a")[3].click()
    wait_until(lambda: browser.all("#model-title")[0].text == HOSTILE)
    browser.all("#predict")[0].click()
    assert best(browser) == HOSTILE
    browser.all("nav a")[4].click()
    wait_until(lambda: browser.all("#model-title")[0].text == "gone")
    assert HOSTILE in browser.all(".banner")[-1].text
    assert browser.all("img") == []
    assert not browser.run("window.hacked")
    assert browser.complaints == []


def test_the_report_of_the_run_is_a_link_and_draws_its_plots_apart_from_the_server(
    browser: Browser, url: str
) -> None:
    visit(browser, url)
    browser.all("a.report")[0].click()
    wait_until(lambda: browser.run("location.pathname === '/report/digits'"))
    wait_until(lambda: browser.all(".chart") and browser.num_drawn == len(browser.all(".chart")))
    assert browser.run("self.origin") == "null"
    assert browser.complaints == []
    assert foreign(browser, url) == []


def test_a_server_with_keys_shows_nothing_without_one_and_keeps_none(
    browser: Browser, artifacts: list[Artifact], tmp_path: Path
) -> None:
    secret = add_key(tmp_path / "keys.txt", "ada")
    with running(artifacts[:1], keys=ApiKeys(tmp_path / "keys.txt")) as (url, _):
        visit(browser, url)
        assert browser.all("#model-title") == []
        assert "digits" not in browser.run("document.body.innerText")
        assert browser.faults() == []
        browser.all("#key")[0].send_keys("wrong", Keys.ENTER)
        assert "unknown" in wait_until(lambda: browser.all("#trouble:not([hidden])")[0].text)
        browser.all("#key")[0].send_keys(secret, Keys.ENTER)
        wait_until(lambda: browser.all("#model-title"))
        draw(browser, [(0.6 * x, 0.9 * y) for x, y in RING])
        assert best(browser) == "0"
        stored = browser.run("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert stored == '[{},{},""]'
        assert secret not in browser.run("document.documentElement.outerHTML")
        assert browser.all("button.report")[0].text == "Save the report of the run"
        visit(browser, url)
        assert browser.all("#model-title") == []


def test_a_model_that_goes_and_a_server_that_ends_are_seen_within_seconds(
    browser: Browser, artifacts: list[Artifact]
) -> None:
    with running(artifacts[:2]) as (url, app):
        visit(browser, url)
        assert len(browser.all("nav a")) == 2
        wait_until(lambda: browser.all("#health")[0].text == "answering")
        assert app.repository is not None
        app.repository.absent["digits"] = (State.UNLOADED, "it was unloaded")
        gone = app.repository.models.pop("digits")
        wait_until(lambda: "unavailable" in browser.all("nav")[0].text)
        assert browser.all("#model-title")[0].text == "digits"
        assert browser.all(".banner")[-1].text == "it was unloaded"
        gone.close()
    wait_until(lambda: browser.all("#health")[0].text == "not reached")
    assert browser.all("#trouble")[0].text == "The server cannot be reached."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["digits", "letters", "rows", "gone"])
def test_nothing_on_the_page_keeps_people_out(browser: Browser, url: str, name: str, scheme: str) -> None:
    visit(browser, f"{url}#/{name}", scheme=scheme)
    if name == "digits":
        draw(browser, [(0.6 * x, 0.9 * y) for x, y in RING])
        best(browser)
        browser.all("#explain")[0].click()
        wait_until(lambda: browser.all(".legend"))
    elif name == "rows":
        browser.all("#predict")[0].click()
        best(browser)
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    assert browser.faults() == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("name", ["digits", "letters", "rows", HOSTILE, "gone"])
def test_the_page_never_scrolls_sideways(browser: Browser, url: str, name: str, width: int) -> None:
    visit(browser, url, width=width)
    next(link for link in browser.all("nav a") if link.text.startswith(name)).click()
    wait_until(lambda: browser.all("#model-title")[0].text == name)
    if name in ("rows", HOSTILE):
        browser.all("#predict")[0].click()
        best(browser)
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    )
    assert browser.run(NO_SCROLL)


def test_what_is_odd_about_a_sample_and_what_samples_are_like_is_shown(
    browser: Browser, tmp_path: Path
) -> None:
    raw = np.random.default_rng(0).random((8, 6))
    known = InputRange(input="row", low=0, high=1, mean=0.4987, std=0.2881, nonfinite=False)
    artifact = linear_artifact(
        tmp_path / "rows", raw, name="row", recipe="rows", mean=0.5, input_ranges=(known,)
    )
    with running([artifact]) as (url, _):
        visit(browser, url, width=390)
        told = browser.all("article")[0].text
        assert "0 to 1, mean 0.4987 ± 0.2881, as calibrated" in told
        assert "(value − 0.5) / 1, by /predict" in told
        assert artifact.digest[:12] in told
        browser.all("#predict")[0].click()
        wait_until(lambda: browser.all(".best"))
        assert browser.all(".odd") == []
        box = browser.all("textarea")[0]
        box.clear()
        box.send_keys('{"row": [[0, 64, 128, 191, 255, 3]]}')
        browser.all("#predict")[0].click()
        odd = wait_until(lambda: browser.all(".odd")[0].text)
        assert odd.startswith("Input 'row' goes from 0 to 255 in row 0")
        assert browser.run(NO_SCROLL)
        assert browser.complaints == []
