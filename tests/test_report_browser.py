"""The page in a real headless Chromium, without a network: nothing is asked for, all is drawn, and all can be read."""

import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from toy_runs import start

from bayes_mbrl.analysis.charts import Band, Bars, Chart, Heatmap, Line, Points, Rule, Section, Slides, Table
from bayes_mbrl.analysis.report import Chapter, html_page
from bayes_mbrl.reporting import write_report

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip(
        "NOT TESTED: the report in a browser, since there is none; install chromium-headless-shell",
        allow_module_level=True,
    )
sync_api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: the report in a browser needs playwright")

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
X = np.arange(30.0)
EVIL = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> <b>b</b> <a href='https://e.org'>a</a> $x$ &lt;"

SMALLEST_TEXT = """() => {
  const sizes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const hidden = ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName);
    if (walker.currentNode.data.trim() && !hidden) sizes.push(parseFloat(getComputedStyle(element).fontSize));
  }
  return Math.min(...sizes);
}"""
CLIPPED = """() => Array.from(document.querySelectorAll(".chart")).flatMap((chart) => {
  const frame = chart.getBoundingClientRect();
  return Array.from(chart.querySelectorAll(".infolayer text, .cartesianlayer text")).filter((text) => {
    const box = text.getBoundingClientRect();
    const inside = box.left >= frame.left - 2 && box.right <= frame.right + 2 && box.top >= frame.top - 2
      && box.bottom <= frame.bottom + 2;
    return box.width > 0 && !inside;
  }).map((text) => text.textContent);
})"""
DRAWN = """() => Array.from(document.querySelectorAll(".chart")).map((chart) => {
  const marks = ".scatterlayer path, .barlayer path, .heatmaplayer image, .shapelayer path";
  return chart.classList.contains("js-plotly-plot") ? chart.querySelectorAll(marks).length : -1;
})"""


def charts(words: str) -> list[Chart | Slides]:
    """Every mark, and slides of five."""
    random = np.random.default_rng(0)
    gap = np.where(X == 7, np.nan, X)
    several = [Line(X, X + i, f"{words[:12]} number {i}") for i in range(6)]
    slides = [
        Chart("S", "time step", "angle (rad)", [Line(X, X * i, f"of {i}")], f"note {i}", y_range=(0, 120))
        for i in range(5)
    ]
    values = Heatmap(X[:9], X[:7], random.random((7, 9)), "epistemic std (rad/s)")
    dots = Points(X, -X, "dots", values=gap - 9, values_label="predicted − real", diverging=True, hover=[words] * 30)
    return [
        Chart(
            "Fan", "time step (0.05 s each)", "angle (rad)", [Band(X, gap - 1, gap + 1, "90 %"), Line(X, gap, words)]
        ),
        Chart(words, words, words[:30], [Bars(np.arange(8.0), random.random(7), words), Rule(3.0, True, words)]),
        Chart("Map", "angle (rad)", "velocity (rad/s)", [values, Points(X[:7], X[:7], "visited")]),
        Chart("Error", "x (m)", "y (m)", [dots]),
        Chart("Long legend", "horizon (steps)", "error (rad)", several, words, log_y=True),
        Slides("What it knew", "episode", ["0", "2", "4", "6", "evaluation"], slides),
    ]


def section(words: str) -> Section:
    table = Table(("name", words), [("a" * 60, "1"), (words, "2" * 200)], words)
    return Section(words, [words, "Words. " * 30], charts(words), [table], [words])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A page of two things side by side, with the strings of an enemy."""
    path = tmp_path_factory.mktemp("page") / "report #1 ?.html"
    chapters = [Chapter("Fine", [("run a", section("real")), (EVIL, section(EVIL))])]
    path.write_text(html_page(EVIL, chapters, introduction=[EVIL]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Visit:
    """A page that is open, all that it complained of, and all that it asked for."""

    def __init__(self, browser: Any, path: pathlib.Path, size: str) -> None:
        width, height = SIZES[size]
        touch = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
        context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **touch)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.chart:not(.js-plotly-plot)').length === 0")
        self.page.wait_for_timeout(300)  # the heights follow the legends


@pytest.fixture(scope="module", params=SIZES)
def visit(browser: Any, path: pathlib.Path, request: pytest.FixtureRequest) -> Visit:
    return Visit(browser, path, request.param)


def test_it_loads_without_complaints_or_requests(visit: Visit, path: pathlib.Path) -> None:
    assert visit.complaints == []
    assert visit.requests == [path.as_uri()]
    assert visit.page.evaluate("performance.getEntriesByType('resource').length") == 0


def test_every_chart_draws_without_being_scrolled_to(visit: Visit) -> None:
    drawn = visit.page.evaluate(DRAWN)
    assert len(drawn) == 12
    assert min(drawn) >= 1


def test_it_can_be_read_at_this_width(visit: Visit) -> None:
    assert visit.page.evaluate(SMALLEST_TEXT) >= 14
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= visit.page.viewport_size["width"]
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    columns = visit.page.evaluate(
        "new Set(Array.from(document.querySelectorAll('article')).map((a) => a.offsetLeft)).size"
    )
    assert columns == (1 if visit.page.viewport_size["width"] == 390 else 2)


def test_no_label_is_clipped_and_no_legend_lies_on_data(visit: Visit) -> None:
    assert visit.page.evaluate(CLIPPED) == []
    overlaps = visit.page.evaluate(
        """() => Array.from(document.querySelectorAll(".chart")).filter((chart) => {
          const legend = chart.querySelector(".legend");
          if (!legend) return false;
          const box = chart._fullLayout._size, top = chart.getBoundingClientRect().top + box.t;
          return legend.getBoundingClientRect().bottom > top + 2;
        }).length"""
    )
    assert overlaps == 0


def test_hostile_strings_are_text(visit: Visit) -> None:
    assert visit.page.evaluate("document.querySelectorAll('img, main a, main b, .chart svg a').length") == 0
    shown = " ".join(EVIL.split())
    assert visit.page.inner_text("h1") == shown
    legends = visit.page.evaluate("Array.from(document.querySelectorAll('.legendtext')).map((t) => t.textContent)")
    assert shown.replace(" ", "") in [legend.replace(" ", "") for legend in legends]


def test_the_slider_changes_what_is_drawn(visit: Visit) -> None:
    chart = visit.page.locator(".chart").nth(5)
    chart.scroll_into_view_if_needed()

    def state() -> tuple[Any, Any]:
        line = chart.locator(".scatterlayer path.js-line").evaluate_all(
            "(paths) => paths.map((p) => p.getAttribute('d'))"
        )
        return line, chart.locator(".slider-label").first.text_content()

    last = state()
    assert visit.page.locator("figcaption").nth(5).text_content() == "note 4"
    assert last[1] == "episode: evaluation"
    rail = chart.locator(".slider-rail-touch-rect").bounding_box()
    visit.page.mouse.click(rail["x"] + 2, rail["y"] + rail["height"] / 2)
    visit.page.wait_for_timeout(400)
    first = state()
    assert first[1] == "episode: 0"
    assert len(first[0]) == len(last[0]) == 1
    assert first[0] != last[0]
    assert chart.locator(".legendtext").all_text_contents() == ["of 0"]
    assert visit.page.locator("figcaption").nth(5).text_content() == "note 0"


@pytest.mark.slow
def test_the_report_of_real_runs(browser: Any, tmp_path: pathlib.Path) -> None:
    folders = [tmp_path / "<b>one", tmp_path / "two"]
    start(folders[0], "LinearGaussian-v0", "posterior.num_steps=60", "num_episodes=2")
    start(folders[1], "ContinuousCartPole-v0", "posterior=ensemble", "num_episodes=2")
    warnings: list[str] = []
    path = write_report(folders, warn=warnings.append)
    for size in SIZES:
        visit = Visit(browser, path, size)
        assert (warnings, visit.complaints, visit.requests) == ([], [], [path.as_uri()])
        drawn = visit.page.evaluate(DRAWN)
        assert len(drawn) >= 30
        assert min(drawn) >= 1
        assert visit.page.evaluate(SMALLEST_TEXT) >= 14
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= visit.page.viewport_size["width"]
        assert visit.page.evaluate(CLIPPED) == []


@pytest.fixture(scope="module")
def desktop(browser: Any, path: pathlib.Path) -> Any:
    return Visit(browser, path, "desktop").page


def test_hover_tells_numbers(desktop: Any) -> None:
    page = desktop
    box = page.locator(".chart").first.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.wait_for_timeout(300)
    assert page.locator(".hoverlayer .hovertext").count() >= 1


def test_dragging_zooms_and_a_double_click_goes_back(desktop: Any) -> None:
    page = desktop
    chart = page.locator(".chart").nth(3)
    chart.scroll_into_view_if_needed()
    span = "(c) => c._fullLayout.xaxis.range[1] - c._fullLayout.xaxis.range[0]"
    whole = chart.evaluate(span)
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.7, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert chart.evaluate(span) == pytest.approx(0.3 * whole, rel=0.1)
    page.mouse.dblclick(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.wait_for_timeout(300)
    assert chart.evaluate(span) == pytest.approx(whole)


def test_the_policy_stops_what_slips_through(browser: Any, tmp_path: pathlib.Path) -> None:
    page = html_page("T", [Chapter("C", [("", Section("S", ["MARK"]))])])
    harm = "document.title='owned'"
    slipped = f'<script>{harm}</script><img src="https://example.org/x.png" onerror="{harm}">'
    (tmp_path / "page.html").write_text(page.replace("MARK", slipped), encoding="utf-8")
    visit = Visit(browser, tmp_path / "page.html", "desktop")
    assert visit.page.title() == "T"
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
