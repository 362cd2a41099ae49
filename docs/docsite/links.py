"""Links of pages that are read in two places: in the repository, where they are written, and on the site.

On the site a link to a file outside docs/ leads to a page that shows it. A link to nothing stays as it is, and Sphinx
says so.
"""

import dataclasses
import pathlib
import posixpath
import re

TEXTS = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Markdown at the root of the repository → its page."""

_LINK = re.compile(r"\]\((?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass
class Links:
    """Rewrites links, and keeps in mind which files have to be shown."""

    root: pathlib.Path
    """Of the repository."""
    shown: set[str] = dataclasses.field(default_factory=set)
    """Files outside docs/ that a page links to, from the root."""

    def page_of(self, path: str) -> str | None:
        """The page, from the root of the site, of a file given from the root of the repository; None if it has none."""
        if path in TEXTS:
            return TEXTS[path]
        if path.startswith("docs/"):
            return path.removeprefix("docs/")
        if not (self.root / path).is_file():
            return None
        self.shown.add(path)
        return f"source/{path}.md"

    def rewrite(self, text: str, page: str) -> str:
        """The text of `page`, a file given from the root of the repository, with links as the site needs them."""
        folder = posixpath.dirname(page)

        def led(match: re.Match[str]) -> str:
            target = self.page_of(posixpath.normpath(posixpath.join(folder, match[1])))
            return match[0] if target is None else f"](/{target}{match[2] or ''})"

        pieces, end = [], 0
        for fence in _FENCE.finditer(text):
            pieces += [_LINK.sub(led, text[end : fence.start()]), fence[0]]
            end = fence.end()
        return "".join([*pieces, _LINK.sub(led, text[end:])])


def toctree(pages: list[str], *, shown: bool = False) -> str:
    """A table of contents, which is what Sphinx's menu is made of, at the end of a page; `shown` there too."""
    hidden = [] if shown else [":hidden:"]
    return "\n".join(["", "```{toctree}", *hidden, ":maxdepth: 1", "", *pages, "```", ""])
