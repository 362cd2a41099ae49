"""The reference: a page for each module, of its docstrings and signatures, read off the syntax tree.

Docstrings are Markdown, as the pages are. Nothing is imported, so that the reference needs no optional package.
"""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator, Mapping

from docsite.links import toctree

LEAVES, TRUNK = ("inference", "planners", "analysis"), "bayes_mbrl"
LEFT_OUT = ("cli", "studies")
"""Parts of the trunk with pages of their own."""

INDEX = """\
# Reference

All public names, with shapes, units and errors, from the docstrings. Axes are named as everywhere: K samples of θ, M
noise draws, C candidate plans, H time steps, S numbers of a state, A of an action, N data.

"""

ORPHAN = "---\norphan: true\n---\n\n"
"""In no table of contents, on purpose."""

_PARAGRAPH = re.compile(r"(?<=[.:;)])\n(?=(?:Raises |Sources?: |Axes: ))")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def pages(root: pathlib.Path) -> dict[str, str]:
    """Path on the site → Markdown, for the index, every package and every module."""
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules(root).items()}
    paths = modules(root)
    packages = sorted({name.rpartition(".")[0] for name in trees if name != TRUNK})
    made = {}
    for name, tree in trees.items():
        members = [other for other in trees if other.rpartition(".")[0] == name and other not in packages]
        text = _module(name, tree, paths[name].relative_to(root).as_posix())
        # A menu of all modules, on every page, would be most of the site: packages are in it, modules in their tables.
        made[f"reference/{name}.md"] = text + _listing(members, trees) if name in packages else ORPHAN + text
    made["reference/index.md"] = INDEX + _listing(packages, trees) + toctree(packages)
    return made


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Import name → file, of every public module; packages under their own name. Links are not followed."""
    found = {}
    for top in (TRUNK, *LEAVES):
        for path in sorted((root / top).rglob("*.py")):
            below = path.relative_to(root)
            if any((root / parent).is_symlink() for parent in below.parents if parent.parts):
                continue
            parts = [*([] if top == TRUNK else [TRUNK]), *below.with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            if any(part.startswith("_") for part in parts) or (len(parts) > 1 and parts[1] in LEFT_OUT):
                continue
            found[".".join(parts)] = path
    return found


def markdown(docstring: str | None) -> str:
    """A docstring as Markdown: paragraphs for raises, source and axes, and no `<` that could be a tag of HTML."""
    text = _PARAGRAPH.sub("\n\n", inspect.cleandoc(docstring or ""))
    pieces = re.split(r"(`+[^`]*`+)", text)
    return "".join(piece if n % 2 else _TAG.sub("&lt;", piece) for n, piece in enumerate(pieces))


def _listing(names: list[str], trees: Mapping[str, ast.Module]) -> str:
    rows = [f"| [{name}]({name}.md) | {_first_line(trees[name])} |" for name in names]
    return "\n".join(["", "| module | |", "|---|---|", *rows, ""])


def _first_line(tree: ast.Module) -> str:
    """The first sentence of the docstring, in one line of a table."""
    paragraph = markdown(ast.get_docstring(tree)).partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0].replace("|", "\\|")


def _module(name: str, tree: ast.Module, file: str) -> str:
    """The page of one module."""
    types = _Qualified(_imports(tree))
    pieces = [
        f"# {name}",
        f"```{{py:module}} {name}\n```",
        markdown(ast.get_docstring(tree)),
        f"`{file}`" + (f", in [{package}]({package}.md)" if (package := name.rpartition(".")[0]) else ""),
    ]
    for node, note in _with_notes(tree.body):
        if isinstance(node, ast.ClassDef) and _public(node.name):
            pieces.append(_class(node, types))
        elif isinstance(node, ast.FunctionDef) and _public(node.name):
            pieces.append(_directive("py:function", _call(node, types), [], markdown(ast.get_docstring(node))))
        elif note and (target := _target(node)):
            pieces.append(_directive("py:data", target, _value_options(node, types), markdown(note)))
    return "\n\n".join(pieces) + "\n"


def _class(node: ast.ClassDef, types: "_Qualified") -> str:
    """A class with its documented fields, properties and methods."""
    body = [markdown(ast.get_docstring(node))]
    if bases := [_linked(base, types) for base in node.bases if ast.unparse(base) != "ABC"]:
        body.append("Bases: " + ", ".join(bases))
    for member, note in _with_notes(node.body):
        if isinstance(member, ast.FunctionDef) and _public(member.name) and ast.get_docstring(member):
            body.append(_method(member, types))
        elif note and (target := _target(member)):
            body.append(_directive("py:attribute", target, _value_options(member, types), markdown(note)))
    return _directive("py:class", _constructor(node, types), [], "\n\n".join(filter(None, body)), ticks=8)


def _linked(base: ast.expr, types: "_Qualified") -> str:
    """The name of a base class, which leads to its description if it is one of the project."""
    name = types.spelt(base).partition("[")[0]
    return f"{{py:class}}`~{name}`" if name.startswith(f"{TRUNK}.") else f"`{name}`"


def _method(node: ast.FunctionDef, types: "_Qualified") -> str:
    marks = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
    text = markdown(ast.get_docstring(node))
    if marks & {"property", "cached_property"}:
        options = [f":type: {types.spelt(node.returns)}"] if node.returns else []
        return _directive("py:property", node.name, options, text)
    options = [f":{mark}:" for mark in ("classmethod", "staticmethod", "abstractmethod") if mark in marks]
    return _directive("py:method", _call(node, types, bound="staticmethod" not in marks), options, text)


def _directive(kind: str, signature: str, options: list[str], text: str, ticks: int = 6) -> str:
    fence = "`" * ticks
    return "\n".join([f"{fence}{{{kind}}} {signature}", *options, "", text, fence])


def _call(node: ast.FunctionDef, types: "_Qualified", *, bound: bool = False) -> str:
    """The signature; of a method without its first argument."""
    arguments = types.visit(node.args)
    if bound:
        (arguments.posonlyargs or arguments.args).pop(0)
    returns = f" -> {types.spelt(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(arguments)}){returns}"


def _constructor(node: ast.ClassDef, types: "_Qualified") -> str:
    """The class as it is called: by `__init__`, or by the fields of a dataclass."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            member.returns = None
            return node.name + _call(member, types, bound=True).removeprefix("__init__")
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return node.name
    fields = []
    for member in node.body:
        if isinstance(member, ast.AnnAssign) and not ast.unparse(member.annotation).startswith("ClassVar"):
            default = f" = {_short(member.value)}" if member.value else ""
            fields.append(f"{ast.unparse(member.target)}: {types.spelt(member.annotation)}{default}")
    return f"{node.name}({', '.join(fields)})"


def _short(value: ast.expr) -> str:
    """A default; what a factory makes is `...`."""
    text = ast.unparse(value)
    return "..." if "field(" in text else text


def _value_options(node: ast.stmt, types: "_Qualified") -> list[str]:
    options = []
    if isinstance(node, ast.AnnAssign):
        options.append(f":type: {types.spelt(node.annotation)}")
    value = getattr(node, "value", None)
    if value is not None and len(text := _short(value)) <= 80:
        options.append(f":value: {text}")
    return options


def _target(node: ast.stmt) -> str:
    """The public name that is assigned to, or ""."""
    target = (
        node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
    )
    return target.id if isinstance(target, ast.Name) and _public(target.id) else ""


def _with_notes(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Each statement with the string that stands after it, if one does."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        stands = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        yield node, str(following.value.value) if stands else ""  # type: ignore[union-attr]


def _public(name: str) -> bool:
    return not name.startswith("_")


def _imports(tree: ast.Module) -> dict[str, str]:
    """Names that come from elsewhere in the project → where they are described."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(TRUNK)
        for alias in node.names
    }


class _Qualified(ast.NodeTransformer):
    """Names of the project in full, so that a type links to its description."""

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._homes = homes

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The full name, where it is one of the project."""
        return ast.parse(self._homes[node.id], mode="eval").body if node.id in self._homes else node

    def spelt(self, node: ast.expr) -> str:
        """An annotation as text."""
        return ast.unparse(self.visit(node))
