"""YAML without its surprises: what a person would not mean is refused, with the line and what to write instead.

Plain scalars are null, true, false, decimal integers, decimal floats (`1e-3` is one) or text. Refused are leading
zeros, digits with colons or underscores, other bases, yes/no/on/off, NaN and infinity, keys given twice, anchors and
tags; in quotes, everything is text.
"""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from bayes_mbrl.errors import UserError

_CONSTANTS: Mapping[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_REFUSED: Mapping[re.Pattern[str], str] = {
    re.compile(pattern, re.ASCII | re.IGNORECASE): reason
    for pattern, reason in {
        r"yes|no|on|off": "is not clear: write true or false",
        r"[-+]?\.?(nan|inf|infinity)": "is not a finite number: write one",
        r"[-+]?0(x[\da-f_]+|o[0-7_]+|b[01_]+)": "is in another base: write it in decimals",
        r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?": "is base 60 to some readers: write one number",
        r"[-+]?[\d.]*\d_[\d_.]*(e[-+]?\d+)?": "has underscores: write the digits alone",
        r"[-+]?0\d+(\.\d*)?(e[-+]?\d+)?": "has leading zeros, octal to some readers: leave them out",
    }.items()
}


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar. Raises ValueError, saying what to write, for one that a person would not mean."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for pattern, reason in _REFUSED.items():
        if pattern.fullmatch(text):
            raise ValueError(f"{text} {reason}, or '{text}' in quotes for text")
    if _INTEGER.fullmatch(text) and len(text) < 1000:
        return int(text)
    if _FLOAT.fullmatch(text):
        if not math.isfinite(float(text)):
            raise ValueError(f"{text[:40]} is too large for a number of 64 bits")
        return float(text)
    return text


def parse(text: str, source: str) -> tuple[Any, list[str]]:
    """(the value, one line for every problem); what has a problem is left out of the value.

    `source` names the text in the lines: a path, or the override as it was typed.
    """
    try:
        root = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return None, [f"{source}{place}: not YAML: {error.problem or error.context}"]
    except yaml.YAMLError as error:
        return None, [f"{source}: not YAML: {' '.join(str(error).split())}"]
    except RecursionError:
        return None, [f"{source}: nested too deeply"]
    problems: list[str] = []
    return (_value(root, source, problems) if root else None), problems


def read_mapping(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """(the mapping in the file, one line for every problem). Raises UserError when there is no readable text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: name a file in it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    value, problems = parse(text, str(path))
    if value is not None and not isinstance(value, dict):
        return {}, [*problems, f"{path}: need a mapping, lines like `seed: 1`, got {type(value).__name__}"]
    return value or {}, problems


def dump(data: Any) -> str:
    """YAML that `parse` reads back as the same data; lists on one line, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """Composes nodes only: without implicit resolvers, every scalar arrives as the text that was written."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the name and type are PyYAML's)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors (&) and aliases (*) are not read: write the value out, or in quotes",
                problem_mark=event.start_mark,  # type: ignore[arg-type]
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `scalar` would read as something else."""


def _value(node: yaml.Node, source: str, problems: list[str]) -> Any:
    where = f"{source}, line {node.start_mark.line + 1}"
    if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        problems.append(f"{where}: tags are not read, got {node.tag}: write the value alone")
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, source, problems) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, source, problems)
    if getattr(node, "style", None) is not None:  # quoted
        return node.value
    try:
        return scalar(node.value)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _mapping(node: yaml.MappingNode, source: str, problems: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or not key:
            problems.append(
                f"{source}, line {line}: a key is a word, got {'nothing' if not key else 'a list or mapping'}"
            )
            continue
        if key in lines:
            problems.append(f"{source}, line {line}: {key} was given in line {lines[key]} already: keep one of the two")
            continue
        lines[key] = line
        before = len(problems)
        value = _value(value_node, source, problems)
        if len(problems) == before or isinstance(value, dict):
            result[key] = value
    return result


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = scalar(text) == text
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


def _represent_list(dumper: yaml.SafeDumper, values: Any) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
