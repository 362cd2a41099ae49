"""The page and the Markdown hold what the sections say, and nothing in a string becomes markup."""

import html
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest

from bayes_mbrl.analysis import interactive
from bayes_mbrl.analysis.charts import Chart, Line, Section, Slides, Table
from bayes_mbrl.analysis.report import Chapter, html_page, markdown_page

X = np.arange(3.0)
EVIL = """</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> "q" 'q' & \u2028 é漢 \x00"""


def chart(title: str = "Fan", note: str = "Bands are central.") -> Chart:
    return Chart(title, "time (s)", "angle (rad)", [Line(X, X, title)], note)


def section(words: str = "Words.") -> Section:
    slides = Slides("Slides", "episode", list("012"), [chart(words) for _ in range(3)])
    table = Table(("name", words), [("a", "1"), (words, "2")], words)
    return Section(words, [words, "More."], [chart(words, words), slides], [table], [words])


class Reader(html.parser.HTMLParser):
    """What a browser would see: elements, their attributes, and text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.text).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def page() -> str:
    chapters = [Chapter("First", [("", section())]), Chapter(EVIL, [("run a", section()), (EVIL, section(EVIL))])]
    return html_page(f"Title {EVIL}", chapters, introduction=[EVIL])


def test_the_page_has_everything_once(page: str) -> None:
    reader = Reader(page)
    assert [reader.count(tag) for tag in ("h1", "h2", "article", "table", "figure")] == [1, 2, 3, 3, 6]
    assert (reader.count("script"), page.count("plotly.js v")) == (3, 1)
    targets = [a["href"] for tag, a in reader.elements if tag == "a"]
    assert targets == [f"#{a['id']}" for tag, a in reader.elements if tag == "section"] == ["#s1", "#s2"]
    for words in ("Words.", "More.", "Not shown: Words.", "run a"):
        assert words in "".join(reader.text)
    assert len(json.loads(reader.scripts[0])) == 6
    places = [a["data-chart"] for _, a in reader.elements if "data-chart" in a]
    assert places == [str(n) for n in range(6)]


def test_no_string_becomes_markup(page: str) -> None:
    reader = Reader(page)
    shown = " ".join(EVIL.replace("\x00", "\ufffd").split())
    assert "".join(reader.text).count(shown) >= 10
    assert reader.count("img") == 0
    assert not [a for _, a in reader.elements if any(name.startswith("on") for name in a)]
    assert len(reader.scripts) == 3
    assert not re.search("[<>&\u2028]", reader.scripts[0])
    name = json.loads(reader.scripts[0])[4]["data"][0]["name"].replace("<br>", "").replace(" ", "")
    assert html.unescape(name) == shown.replace(" ", "")
    assert "<" not in name
    page.encode("utf-8")


def test_nothing_is_fetched_and_only_our_scripts_may_run(page: str) -> None:
    reader = Reader(page)
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "'unsafe-inline'" not in policy.split(";")[1]
    addresses = [a.get(name) for tag, a in reader.elements for name in ("src", "href") if a.get(name)]
    assert all(address is not None and address[:5] in ("#s1", "#s2", "data:") for address in addresses)


def test_the_page_is_small_and_the_same_each_time(page: str) -> None:
    chapters = [Chapter("First", [("", section())])]
    assert html_page("T", chapters) == html_page("T", chapters)
    assert len(page.encode()) < 5_000_000


def test_a_number_costs_six_bytes() -> None:
    many = np.random.default_rng(0).normal(size=50_000)
    few, more = (Chart("T", "x", "y", [Line(many[:n], many[:n])]) for n in (1, 50_000))
    sizes = [len(html_page("T", [Chapter("C", [("", Section("S", figures=[drawn]))])])) for drawn in (few, more)]
    assert sizes[1] - sizes[0] < 6 * 2 * 50_000


def test_a_chart_that_cannot_be_drawn_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def broken(chart: Chart | Slides, **_: object) -> None:
        raise ZeroDivisionError("a <b>")

    monkeypatch.setattr(interactive, "figure", broken)
    reader = Reader(html_page("T", [Chapter("First", [("", section("Words."))])]))
    assert "Not shown: Words.: ZeroDivisionError: a <b>" in "".join(reader.text)
    assert reader.count("table") == 1
    monkeypatch.setattr("bayes_mbrl.analysis.static.save_chart", lambda chart, path: broken(chart))
    text = markdown_page("T", [Chapter("First", [("", section("Words."))])], pictures=tmp_path)
    assert "*Not shown: Words.: ZeroDivisionError: a &lt;b&gt;*" in text
    assert "| a | 1 |" in text


def test_markdown_has_words_pictures_and_tables(tmp_path: pathlib.Path) -> None:
    pictures = tmp_path / "my figures"
    pictures.mkdir()
    (pictures / "figure-99.png").touch()
    (pictures / "figure-of-mine.png").touch()
    text = markdown_page("T", [Chapter("First", [("", section()), ("b", Section("B"))])], pictures=pictures)
    assert text.startswith("# T\n\n## First\n\nWords.\n\nMore.\n\n*Not shown: Words.*\n")
    assert "\n### b\n" in text
    assert "| name | Words. |\n| --- | --- |\n| a | 1 |\n" in text
    links = re.findall(r"!\[(.*?)\]\((.*?)\)", text)
    assert links == [
        ("Words.", "my%20figures/figure-1.png"),
        *((f"Slides (episode {n})", f"my%20figures/figure-{n + 2}.png") for n in range(3)),
    ]
    assert {path.name for path in pictures.iterdir()} == {f"figure-{n}.png" for n in range(1, 5)} | {
        "figure-of-mine.png"
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b *c* `d` [e](f) !", r"a\_b \*c\* \`d\` \[e\](f) \!"),
        ("<script> & |", r"&lt;script&gt; &amp; \|"),
        ("# head", r"\# head"),
        ("1. item", r"1\. item"),
        ("0.35 and -2", "0.35 and -2"),
        ("- item\n---", r"\- item ---"),
        ("---", r"\---"),
        ("see https://example.org www.example.org", "see https&#58;//example.org www&#46;example.org"),
        ("a\\", "a\\\\"),
    ],
)
def test_markdown_shows_texts_as_they_are(text: str, expected: str, tmp_path: pathlib.Path) -> None:
    written = markdown_page("T", [Chapter("C", [("", Section("S", [text]))])], pictures=tmp_path)
    assert written.split("\n\n", 2)[2] == f"{expected}\n"
