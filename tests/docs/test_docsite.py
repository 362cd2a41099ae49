"""The site is made of what is there: links lead on, studies say what was found, the reference leaves out nothing.

That the whole site can be built is `make docs`, which CI does.
"""

import ast
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from docsite import reference, studies
from docsite.assemble import DOCS, ROOT, assemble
from docsite.links import Links

from bayes_mbrl.studies.output_entropy import STUDY
from bayes_mbrl.studying import find_study, study_names

STUDIES = [find_study(name) for name in study_names()]
"""Loaded here: the first import of a framework may move a global random state."""
FINDING: dict[str, Any] = {
    "claim": STUDY.claim,
    "quick": True,
    "verdict": "refuted",
    "num_seeds": 3,
    "contrasts": [{"statement": "a | b", "estimate": -0.51234, "low": -1.0, "high": -0.25, "verdict": "refuted"}],
    "errors": ["output-entropy, point, seed 1001: it diverged"],
    "note": "Lower is better.",
}


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](../planning.md#cost)", "[a](/planning.md#cost)"),
        ("![a](../dyna.png)", "![a](/dyna.png)"),
        ("[a](../../README.md)", "[a](/readme.md)"),
        ("[a](../../CHANGELOG.md)", "[a](/changelog.md)"),
        ("[a](../../inference/svi.py)", "[a](/source/inference/svi.py.md)"),
        ("[a](https://example.org/a.md)", "[a](https://example.org/a.md)"),
        ("[a](#below)", "[a](#below)"),
        ("[a](../../no/such.py)", "[a](../../no/such.py)"),
        ("```md\n[a](mpc.md)\n```\n[a](mpc.md)", "```md\n[a](mpc.md)\n```\n[a](/ladder/mpc.md)"),
    ],
)
def test_links_lead_on(link: str, led: str) -> None:
    links = Links(ROOT)
    assert links.rewrite(link, "docs/ladder/page.md") == led
    assert links.shown == ({"inference/svi.py"} if "svi" in led else set())


def test_a_study_that_was_run_shows_its_verdict_and_figure() -> None:
    page = studies.page("output-entropy", STUDY, FINDING, "\nHow <far>.\n")
    assert "How &lt;far>." in page
    assert f"> {STUDY.claim}" in page
    assert "**Refuted**, by 3 seeds of the quick version" in page
    assert "![What was measured](output-entropy/figure.png)\n\nLower is better.\n" in page
    assert "| a \\| b | -0.512 [-1, -0.25] | refuted |" in page
    assert "Failed: output-entropy, point, seed 1001: it diverged" in page
    assert "{warning}" not in page
    full = studies.page("output-entropy", STUDY, {**FINDING, "quick": False, "errors": []}, "How.")
    assert "by 3 seeds of the full version" in full
    assert "Failed" not in full


def test_a_study_that_was_not_run_says_so_and_one_of_another_claim_too() -> None:
    page = studies.page("output-entropy", STUDY, None, "How.")
    assert "has not been run" in page
    assert not re.search("supported|refuted|undecided|figure.png", page)
    other = dataclasses.replace(STUDY, claim="Another claim.")
    assert "{warning}" in studies.page("output-entropy", other, FINDING, "How.")


def test_every_study_has_a_page_and_its_row(tmp_path: pathlib.Path) -> None:
    found = tmp_path / "studies" / "output-entropy"
    found.mkdir(parents=True)
    (found / "finding.json").write_text(json.dumps(FINDING))
    pages = studies.pages(tmp_path)
    assert set(pages) == {"studies/index.md", *(f"studies/{name}.md" for name in study_names())}
    rows = {row.split("](")[0]: row for row in pages["studies/index.md"].splitlines() if row.startswith("| [")}
    assert rows["| [output-entropy"].endswith("| **refuted** (quick) |")
    assert rows["| [long-rollouts"].endswith("| not run yet |")


def test_findings_in_docs_are_of_studies_there_are() -> None:
    folders = {path.parent.name: path.parent for path in DOCS.glob("studies/*/finding.json")}
    assert set(folders) <= set(study_names())
    assert [name for name, folder in folders.items() if not (folder / "figure.png").is_file()] == []


MODULE = '''
"""What a <module> is.
Raises nothing."""

import dataclasses
from bayes_mbrl.inference.base import Posterior, Theta as Th

LIMIT: float = 3.0
"""In nats."""
_hidden = 1
"""Not shown."""


@dataclasses.dataclass(frozen=True)
class Kept(Posterior):
    """Kept `a < b`, and a <b."""

    theta: Th
    """{name: [K, ...]}."""
    more: list[int] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        """K."""

    @classmethod
    def made(cls, n: int) -> "Kept":
        """From n."""

    def _private(self) -> None:
        """Not shown."""


def fit(x: Posterior | None, *, generator: "Generator", steps: int = 2) -> tuple[Kept, Th]:
    """p(θ | D)."""
'''


def test_the_reference_says_all_that_is_public(tmp_path: pathlib.Path) -> None:
    others = {
        "inference/__init__.py": "Leaf",
        "bayes_mbrl/__init__.py": "All",
        "bayes_mbrl/cli/__init__.py": "Commands",
    }
    files = {"inference/kept.py": MODULE, **{name: f'"""{what}."""' for name, what in others.items()}}
    for name, text in {**files, "bayes_mbrl/_own.py": '"""Own."""'}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bayes_mbrl" / "inference").symlink_to("../inference")
    pages = reference.pages(tmp_path)
    assert set(pages) == {
        "reference/index.md", "reference/bayes_mbrl.md", "reference/bayes_mbrl.inference.md",
        "reference/bayes_mbrl.inference.kept.md",
    }  # fmt: skip
    page = pages["reference/bayes_mbrl.inference.kept.md"]
    directives = [line.strip("`") for line in page.splitlines() if re.match("`{6,}{", line)]
    assert directives == [
        "{py:data} LIMIT",
        "{py:class} Kept(theta: bayes_mbrl.inference.base.Theta, more: list[int] = ...)",
        "{py:attribute} theta",
        "{py:property} size",
        "{py:method} made(n: int) -> 'Kept'",
        "{py:function} fit(x: bayes_mbrl.inference.base.Posterior | None, *, generator: 'Generator', steps: int=2)"
        " -> tuple[Kept, bayes_mbrl.inference.base.Theta]",
    ]
    assert ":type: float\n:value: 3.0\n\nIn nats." in page
    assert "Kept `a < b`, and a &lt;b.\n\nBases: {py:class}`~bayes_mbrl.inference.base.Posterior`" in page
    assert "What a &lt;module> is.\n\nRaises nothing." in page
    assert "Not shown" not in page
    assert (
        "| [bayes_mbrl.inference.kept](bayes_mbrl.inference.kept.md) | What a"
        in pages["reference/bayes_mbrl.inference.md"]
    )


def test_every_public_function_of_the_project_is_in_the_reference() -> None:
    pages = reference.pages(ROOT)
    for name, path in reference.modules(ROOT).items():
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        page = pages[f"reference/{name}.md"]
        assert [f for f in functions if not f.startswith("_") and f"{{py:function}} {f}(" not in page] == []


def test_what_is_assembled_again_is_not_written_again_and_what_is_gone_is_deleted(tmp_path: pathlib.Path) -> None:
    assemble(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "ladder" / "gone.md").write_text("# Gone\n")
    (tmp_path / "index.md").write_text("# Changed\n")
    assemble(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert set(before) == set(after)
    assert [path for path in after if after[path] != before[path]] == [tmp_path / "index.md"]
    missing = re.compile(r"\]\((?:\.\./)+[\w./-]+\)")
    assert [path.name for path in after if path.suffix == ".md" and missing.search(path.read_text())] == []


NOTEBOOK = """\
---
file_format: mystnb
kernelspec:
  name: python3
---
# Notebook

```{code-cell}
print(6 * 7)
```
"""
PAGE = "# Site\n\n```{toctree}\nnotebook\n```\n"
BROKEN = "[a](no_such.md)\n\n![a](no_such.png)\n\n```{toctree}\nno_such_page\n```\n"


def _build(folder: pathlib.Path, pages: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in pages.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(DOCS), str(folder)]
    return subprocess.run([*command, str(folder / "html")], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_site_runs_its_notebooks_and_needs_no_network(tmp_path: pathlib.Path) -> None:
    done = _build(tmp_path, {"index.md": PAGE, "notebook.md": NOTEBOOK})
    assert done.returncode == 0, done.stderr
    pages = [path.read_text() for path in (tmp_path / "html").glob("*.html")]
    assert any(">42\n" in text for text in pages)
    assert [text for text in pages if re.search(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text)] == []


@pytest.mark.slow
def test_broken_links_and_a_page_in_no_menu_fail(tmp_path: pathlib.Path) -> None:
    done = _build(tmp_path, {"index.md": PAGE + BROKEN, "notebook.md": "# Notebook\n", "orphan.md": "# Orphan\n"})
    assert done.returncode != 0
    for told in ("no_such.md", "image file not readable: no_such.png", "nonexisting document 'no_such_page'"):
        assert told in done.stderr
    assert re.search(r"orphan\.md: WARNING: document isn't included in any toctree", done.stderr)


@pytest.mark.slow
def test_a_notebook_that_fails_fails_the_site(tmp_path: pathlib.Path) -> None:
    done = _build(tmp_path, {"index.md": PAGE, "notebook.md": NOTEBOOK.replace("6 * 7", "6 / 0")})
    assert done.returncode != 0
    assert re.search("notebook.md: WARNING: Executing notebook failed.*ZeroDivisionError", done.stderr, re.DOTALL)
