"""Sections as a document: one HTML page that needs nothing else and no network, or Markdown with pictures beside it.

Whatever a text holds is shown letter by letter. In the page a Content-Security-Policy lets only our own two scripts
run, by their hashes, and forbids every request, so that even a slip here could load and run nothing. (They may make
functions from strings, as plotly.js does.)
"""

import base64
import dataclasses
import hashlib
import html
import itertools
import json
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence

from bayes_mbrl.analysis import interactive, static
from bayes_mbrl.analysis.charts import Chart, Section, Slides, Table, printable
from bayes_mbrl.analysis.page_parts import SCRIPT, STYLE


@dataclasses.dataclass(frozen=True)
class Chapter:
    """One question, answered for one thing or, side by side, for several."""

    title: str
    columns: Sequence[tuple[str, Section]]
    """(heading, answer); "" for an answer that needs none. Titles of the sections themselves are not shown."""


def html_page(title: str, chapters: Sequence[Chapter], *, introduction: Sequence[str] = ()) -> str:
    """The page: contents, then the chapters. It is drawn by plotly.js, which it holds (4.8 MB).

    The same chapters make the same page, byte by byte.
    """
    charts: list[str] = []
    body = "".join(_chapter(number, chapter, charts) for number, chapter in enumerate(chapters, 1))
    links = "".join(f'<li><a href="#s{n}">{_text(chapter.title)}</a></li>' for n, chapter in enumerate(chapters, 1))
    scripts = [interactive.plotly_script().replace("\r\n", "\n"), SCRIPT]
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{_text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n'
        f"<header>\n<h1>{_text(title)}</h1>\n{_paragraphs(introduction)}"
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n'
        '<noscript><p class="missing">The charts are drawn by JavaScript, which is switched off here.</p></noscript>\n'
        f"</header>\n<main>\n{body}</main>\n"
        f'<script type="application/json" id="charts">[{_inert(",".join(charts))}]</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def markdown_page(
    title: str, chapters: Sequence[Chapter], *, pictures: pathlib.Path, introduction: Sequence[str] = ()
) -> str:
    """The document as Markdown, to be written into the parent of `pictures`, a folder that exists.

    The charts are written into it, as figure-1.png, figure-2.png, ...; figures of an earlier document go away.
    """
    for old in pictures.glob("figure-*.png"):
        if re.fullmatch(r"figure-\d+\.png", old.name):
            old.unlink()
    numbers = itertools.count(1)
    lines = [f"# {_escaped(title)}", *map(_escaped, introduction)]
    for chapter in chapters:
        lines.append(f"## {_escaped(chapter.title)}")
        for heading, section in chapter.columns:
            lines += [f"### {_escaped(heading)}"] if heading else []
            lines += _markdown_section(section, pictures, numbers)
    return "\n\n".join(lines) + "\n"


def _chapter(number: int, chapter: Chapter, charts: list[str]) -> str:
    columns = "".join(_column(heading, section, charts) for heading, section in chapter.columns)
    heading = f'<section id="s{number}">\n<h2>{_text(chapter.title)}</h2>\n'
    return f'{heading}<div class="columns">\n{columns}</div>\n</section>\n'


def _column(heading: str, section: Section, charts: list[str]) -> str:
    """One section; what its charts draw is added to `charts`."""
    missing, figures = list(section.missing), []
    for figure in section.figures:
        try:
            drawn = interactive.figure(figure, with_title=False)
        except Exception as error:  # the rest of the page is worth having
            missing.append(f"{figure.title}: {type(error).__name__}: {error}")
            continue
        figures.append(_figure(figure, int(drawn.layout.height), len(charts)))
        charts.append(_spec(figure, drawn.to_json()))
    return (
        f"<article>\n{f'<h3>{_text(heading)}</h3>' if heading else ''}\n{_paragraphs(section.text)}"
        + "".join(f'<p class="missing">Not shown: {_text(sentence)}</p>\n' for sentence in missing)
        + (f'<div class="figures">\n{"".join(figures)}</div>\n' if figures else "")
        + "".join(map(_table, section.tables))
        + "</article>\n"
    )


def _figure(figure: Chart | Slides, height: int, number: int) -> str:
    """Title, a place that the script draws the chart of this number into, and the note of what is shown first."""
    label, note = _text(figure.title), _charts(figure)[-1].note
    return (
        f'<figure><h4>{label}</h4>\n<div class="chart" data-chart="{number}" style="min-height:{height}px" '
        f'role="group" aria-label="{label}"></div>\n<figcaption>{_text(note)}</figcaption></figure>\n'
    )


def _spec(figure: Chart | Slides, drawn: str) -> str:
    """What the script gets: plotly's JSON, in which plotly escapes each slash, and the notes of slides."""
    notes = [chart.note for chart in _charts(figure)]
    return json.dumps(json.loads(drawn) | {"notes": notes if len(set(notes)) > 1 else []}, separators=(",", ":"))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    caption = f"<h4>{_text(table.title)}</h4>\n" if table.title else ""
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
    return f'{caption}<div class="scroll" tabindex="0"><table>\n{body}</table></div>\n'


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{_text(text)}</p>\n" for text in texts)


def _text(text: str) -> str:
    """For HTML, in an element and in an attribute."""
    return html.escape(printable(text))


def _inert(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _charts(figure: Chart | Slides) -> Sequence[Chart]:
    return figure.charts if isinstance(figure, Slides) else [figure]


def _markdown_section(section: Section, pictures: pathlib.Path, numbers: Iterator[int]) -> list[str]:
    lines = [_escaped(text) for text in section.text]
    lines += [f"*Not shown: {_escaped(sentence)}*" for sentence in section.missing]
    for figure in section.figures:
        for chart in _stills(figure):
            path = pictures / f"figure-{next(numbers)}.png"
            try:
                static.save_chart(chart, path)
            except Exception as error:  # the rest of the document is worth having
                lines.append(f"*Not shown: {_escaped(f'{chart.title}: {type(error).__name__}: {error}')}*")
                continue
            lines.append(f"![{_escaped(chart.title)}]({urllib.parse.quote(f'{pictures.name}/{path.name}')})")
            lines += [_escaped(chart.note)] if chart.note else []
    for table in section.tables:
        lines += [f"**{_escaped(table.title)}**"] if table.title else []
        rows = [table.columns, ["---"] * len(table.columns), *table.rows]
        cells = [[_escaped(cell) if row is not rows[1] else cell for cell in row] for row in rows]
        lines.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    return lines


def _stills(figure: Chart | Slides) -> list[Chart]:
    """A chart; of slides the first, the middle and the last."""
    if isinstance(figure, Chart):
        return [figure]
    last = len(figure.charts) - 1
    return [
        dataclasses.replace(figure.charts[i], title=f"{figure.title} ({figure.slider} {figure.labels[i]})")
        for i in sorted({0, last // 2, last})
    ]


def _escaped(text: str) -> str:
    """For Markdown, on one line: nothing in it is markup, HTML, or a link."""
    line = html.escape(printable(text), quote=False)
    line = re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", line)
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;")
    line = re.sub(r"^(\d{1,9})(?=[.)](?:\s|$))", r"\1\\", line)
    return re.sub(r"^(?=[-+](?:\s|$)|[-=]+$)", r"\\", line)
