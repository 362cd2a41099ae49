"""Puts the sources of the site together in one folder, for Sphinx: `python -m docsite.assemble FOLDER`, in docs/.

Pages of docs/ with their links led on, the texts at the root, a page for each file that is linked to, the studies, the
reference. What has not changed is not written again, so that Sphinx reads only what has.
"""

import pathlib
import sys

from docsite import reference, studies
from docsite.links import TEXTS, Links, toctree
from docsite.reference import ORPHAN

DOCS = pathlib.Path(__file__).parents[1]
ROOT = DOCS.parent
KINDS = (".md", ".png", ".svg")
"""Of files in docs/ that belong to the site."""

DECISIONS = "Where the code departs from the plan, and why.\n"


def assemble(folder: pathlib.Path) -> None:
    """Write all sources into `folder`, and delete there what is none."""

    links = Links(ROOT)
    files: dict[str, bytes] = {}
    for path in sorted(DOCS.rglob("*")):
        below = path.relative_to(DOCS).as_posix()
        if path.suffix == ".md":
            files[below] = links.rewrite(path.read_text(encoding="utf-8"), f"docs/{below}").encode()
        elif path.suffix in KINDS:
            files[below] = path.read_bytes()
    ladder = files["ladder/README.md"].decode()
    rungs = sorted(
        _names(files, "ladder/", "README"), key=lambda name: ladder.find(f"/{name}.md")
    )  # as they stand there
    files["ladder/README.md"] += toctree(rungs).encode()
    decisions = _names(files, "decisions/")
    files["decisions/index.md"] = f"# Decisions\n\n{DECISIONS}\n{toctree(decisions, shown=True)}".encode()
    for name, page in TEXTS.items():
        files[page] = links.rewrite((ROOT / name).read_text(encoding="utf-8"), name).encode()
    for page, text in {**studies.pages(DOCS), **reference.pages(ROOT)}.items():
        files[page] = text.encode()
    for name in sorted(links.shown):
        files[f"source/{name}.md"] = _shown(name).encode()
    _write(folder, files)


def _names(files: dict[str, bytes], folder: str, *but: str) -> list[str]:
    """The pages of a folder, as a table of contents in it names them."""
    found = [path.removeprefix(folder).removesuffix(".md") for path in files if path.startswith(folder)]
    return [name for name in found if name not in but]


def _shown(name: str) -> str:
    """A page with the text of a file, which is in no table of contents."""
    language = {".py": "python", ".yaml": "yaml", ".sh": "sh"}.get(pathlib.Path(name).suffix, "text")
    text = (ROOT / name).read_text(encoding="utf-8").rstrip()
    return f"{ORPHAN}# {name}\n\n``````{language}\n{text}\n``````\n"


def _write(folder: pathlib.Path, files: dict[str, bytes]) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    assemble(pathlib.Path(sys.argv[1]))
