"""The page of a report in a real Chromium: offline, by mouse and keyboard, light and dark, on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report import samples
from tests.unit.report.test_exemplars import runs
from tests.unit.report.test_harm import PIXEL, certain, explained, forgotten
from tests.unit.report.test_layers_section import known
from tests.unit.report.test_pair import paired

from lissom.report.drawing import PALETTE
from lissom.report.history import Entry, history_page
from lissom.report.pages import html_from_report
from lissom.report.schema import Flip, Report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVERY_REPORT = [
    samples.typical,
    samples.with_errors,
    samples.without_choice,
    samples.without_accuracy,
    samples.collapsed,
    samples.with_metrics,
    samples.regression,
    samples.quantized,
    samples.quantized_without_labels,
    samples.empty,
    samples.hostile,
    certain,
    forgotten,
    known,
    paired,
]


class Browser:
    """A Chromium that opens reports."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, report: Report, *, width: int = 1280, scheme: str = "light") -> None:
        self.show(html_from_report(report), width=width, scheme=scheme)

    def show(self, content: str, *, width: int = 1280, scheme: str = "light") -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page = self.folder / "report.html"
        page.write_text(content, encoding="utf-8")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(page.as_uri())
        WebDriverWait(self.driver, 30).until(lambda _: self.run("document.readyState === 'complete'"))
        WebDriverWait(self.driver, 30).until(lambda _: self.num_drawn == len(self.all(".chart")))

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def run(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    @property
    def num_drawn(self) -> int:
        return len(self.all(".chart[data-drawn]"))

    @property
    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, but for the page, what it holds, and the start page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        own = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:")
        return [address for address in sent if not address.startswith(own)]

    def faults(self) -> list[str]:
        """What axe-core finds that keeps people out, with the first element of each kind."""
        self.driver.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        return [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found["violations"]]

    def column(self, number: int) -> list[str]:
        """First line of each cell of the table of arms; empty where an error covers the column."""
        rows = [row.find_elements(By.CSS_SELECTOR, "th, td") for row in self.all("#arms-table tbody tr")]
        return [row[number].text.split("\n")[0] if number < len(row) else "" for row in rows]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))
    try:
        yield Browser(driver, tmp_path_factory.mktemp("page"))
    finally:
        driver.quit()


@pytest.mark.parametrize("sample", EVERY_REPORT)
def test_every_page_draws_its_plots_fetches_nothing_and_the_console_stays_empty(
    browser: Browser, sample: Callable[[], Report]
) -> None:
    browser.open(sample())
    assert browser.num_drawn == len(browser.all(".chart"))
    assert browser.requests == []
    assert browser.complaints == []


def test_what_is_printed_has_every_plot_before_the_browser_was_ever_idle(browser: Browser) -> None:
    busy = {"source": "window.requestIdleCallback = () => 0"}
    script = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", busy)
    try:
        page = browser.folder / "busy.html"
        page.write_text(html_from_report(samples.typical()), encoding="utf-8")
        browser.driver.get(page.as_uri())
        assert browser.num_drawn < len(browser.all(".chart"))
        browser.run("dispatchEvent(new Event('beforeprint'))")
        assert browser.num_drawn == len(browser.all(".chart"))
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_typical_page_has_seven_plots_with_marks_in_each(browser: Browser) -> None:
    browser.open(samples.typical())
    marks = [
        len(plot.find_elements(By.CSS_SELECTOR, ".points path, .lines path"))
        for plot in browser.all(".chart")
    ]
    assert len(marks) == 7
    assert all(number >= 5 for number in marks)


def test_markup_of_the_user_does_not_run(browser: Browser) -> None:
    browser.open(samples.hostile())
    assert browser.run("window.hacked === undefined")
    assert browser.all("img") == []


def test_pointing_at_a_bubble_shows_the_name_of_its_arm(browser: Browser) -> None:
    report = samples.typical()
    browser.open(report)
    shown = set()
    for bubble in browser.all("#plot-pareto .scatterlayer .points path"):
        ActionChains(browser.driver).move_to_element(bubble).pause(0.15).perform()
        shown |= {hover.text for hover in browser.all("#plot-pareto .hoverlayer .hovertext")}
    for arm in report.arms:
        assert any(text.startswith(f"{arm.artifact} · {arm.runtime}") for text in shown), (
            arm.artifact,
            arm.runtime,
        )
    assert any("quantize · openvino (chosen)" in text and "0.0221" in text for text in shown)


def test_the_arms_are_sorted_by_a_click_and_back_by_another(browser: Browser) -> None:
    browser.open(samples.with_errors())
    header = browser.all("#arms-table thead th")[3]
    header.find_element(By.TAG_NAME, "button").click()
    ascending = browser.column(3)[:-1]
    assert header.get_attribute("aria-sort") == "ascending"
    assert [float(figure) for figure in ascending] == sorted(float(figure) for figure in ascending)
    header.find_element(By.TAG_NAME, "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert browser.column(3)[:-1] == ascending[::-1]
    assert browser.column(1)[-1] == "tensorrt"


def test_the_arms_are_sorted_by_the_keyboard_alone(browser: Browser) -> None:
    browser.open(samples.typical())
    browser.run("document.querySelectorAll('#arms-table thead button')[0].focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    names = browser.column(0)
    assert names == sorted(names)
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.SPACE)
    runtimes = browser.column(1)
    assert runtimes == sorted(runtimes)
    assert [header.get_attribute("aria-sort") for header in browser.all("#arms-table thead th")[:3]] == [
        "none",
        "ascending",
        "none",
    ]


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("sample", EVERY_REPORT)
def test_the_page_never_scrolls_sideways(browser: Browser, sample: Callable[[], Report], width: int) -> None:
    browser.open(sample(), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_plots_take_the_colours_of_the_system(browser: Browser, scheme: str) -> None:
    browser.open(samples.typical(), scheme=scheme)
    paper = PALETTE["paper"][scheme == "dark"]
    wanted = f"rgb({', '.join(str(int(paper[place : place + 2], 16)) for place in (1, 3, 5))})"
    grounds = [
        svg.value_of_css_property("background-color") for svg in browser.all(".chart .main-svg:first-child")
    ]
    grounds += [browser.all("body")[0].value_of_css_property("background-color")]
    assert len(grounds) == 8
    assert {ground.replace("rgba", "rgb").replace(", 1)", ")") for ground in grounds} == {wanted}


def test_names_in_the_pareto_plot_do_not_cover_each_other_on_a_phone(browser: Browser) -> None:
    browser.open(samples.typical(), width=360)
    names = [name for name in browser.all("#plot-pareto .annotation") if name.is_displayed()]
    boxes = [name.rect for name in names]
    assert any("quantize · openvino" in name.text for name in names)
    for place, one in enumerate(boxes):
        for other in boxes[place + 1 :]:
            apart_across = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
            apart_down = one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]
            assert apart_across or apart_down


def test_everything_that_acts_has_a_name_and_every_table_a_caption(browser: Browser) -> None:
    browser.open(samples.typical())
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach((folded) => { folded.open = true; })"
    )
    assert [button for button in browser.all("button") if not button.accessible_name] == []
    assert [box for box in browser.all('[role="region"], [role="img"]') if not box.accessible_name] == []
    assert len(browser.all("table caption")) == len(browser.all("table")) == 7


def test_a_copy_button_says_that_it_copied(browser: Browser) -> None:
    browser.open(samples.typical())
    permissions = {"origin": "file://", "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    button = browser.all('button[data-copy="serve"]')[0]
    button.click()
    WebDriverWait(browser.driver, 5).until(lambda _: button.text == "Copied")
    assert browser.run("navigator.clipboard.readText()") == "lissom serve runs/digits/artifact"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_several_runs_draws_its_plots_and_never_scrolls_sideways(
    browser: Browser, width: int
) -> None:
    reports = [samples.typical(), samples.with_errors(), samples.without_choice(), samples.hostile()]
    entries = [Entry(browser.folder / str(place), report) for place, report in enumerate(reports)]
    browser.show(history_page(entries, browser.folder), width=width)
    assert browser.num_drawn == 3
    assert browser.complaints == []
    assert browser.requests == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert not browser.run("window.hacked")


def test_flips_are_shown_as_pictures(browser: Browser) -> None:
    browser.open(certain())
    assert len(browser.all(".flips img")) == 1
    assert len(browser.all(".flips blockquote")) == 1


@pytest.mark.parametrize("width", [320, 1280])
def test_what_flipped_answers_hang_on_leaves_room_for_the_words(browser: Browser, width: int) -> None:
    browser.open(explained(), width=width)
    assert len(browser.all(".flips img")) == 3
    assert len(browser.all(".flips blockquote")) == 2
    assert all(words.rect["width"] > 150 for words in browser.all(".flips span"))
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.faults() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "sample", [samples.typical, samples.with_errors, samples.quantized, certain, known, paired]
)
def test_nothing_on_a_page_keeps_people_out(
    browser: Browser, sample: Callable[[], Report], scheme: str
) -> None:
    browser.open(sample(), scheme=scheme)
    assert browser.faults() == []


def test_nothing_on_the_page_of_several_runs_keeps_people_out(browser: Browser) -> None:
    entries = [Entry(browser.folder / "one", samples.typical()), Entry(browser.folder / "two", certain())]
    browser.show(history_page(entries, browser.folder))
    assert browser.faults() == []


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_exemplars_are_drawn_and_keep_nobody_out(browser: Browser, scheme: str, width: int) -> None:
    flips = (Flip(place=5, picture=PIXEL, text=None),)
    reports = runs(names=("one", samples.HOSTILE), flips=flips)
    entries = [Entry(browser.folder / str(place), report) for place, report in enumerate(reports)]
    browser.show(history_page(entries, browser.folder), width=width, scheme=scheme)
    browser.driver.execute_script(
        "document.querySelectorAll('details').forEach((folded) => { folded.open = true; })"
    )
    assert len(browser.all("#plot-exemplar-classes .points path")) == 4
    assert len(browser.all(".flips img")) == 1
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert not browser.run("window.hacked")
    assert browser.faults() == []
    assert browser.complaints == []
