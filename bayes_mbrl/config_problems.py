"""Mistakes in a configuration, a line each: what was got, what is allowed, what was meant."""

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

_LIST_ERRORS = ("is_instance_of", "list_type", "sequence_str", "tuple_type")


def describe(
    error: Mapping[str, Any], section: str, known: Collection[str], owners: Callable[[str, str], Sequence[str]]
) -> str:
    """One of pydantic's errors about the keys of `section` ("" for those outside all sections) in a line.

    `known` are all keys of the configuration, with their sections; `owners(section, key)` the components of the
    section that have such a setting.
    """
    path = _path(section, error["loc"])
    match error["type"]:
        case "extra_forbidden" if section and (names := owners(section, str(error["loc"][0]))):
            return f"unknown key {path}: it is a setting of {section} {' and '.join(names)} only"
        case "extra_forbidden":
            return unknown_key(path, known)
        case "missing":
            return f"{path} has no default: write {path}=..."
        case kind if kind in _LIST_ERRORS:
            return f"{path} should be a list such as [50, 50], got {show(error['input'])}"
    message = error["msg"].replace("Input should be", "should be").replace("a valid integer", "an integer")
    return f"{path} {message.replace(' valid ', ' ')}, got {show(error['input'])}"


def unknown_key(path: str, known: Collection[str]) -> str:
    """The line for a key that does not exist, with the key that was probably meant."""
    section, _, last = path.rpartition(".")

    def likeness(key: str) -> float:
        other_section, _, other_last = key.rpartition(".")
        alike = _likeness(last, other_last)
        return alike + 0.3 * _likeness(section, other_section) if alike > 0.65 else 0.0

    nearest = max(known, key=likeness)
    if likeness(nearest) > 0:
        return f"unknown key {path}; did you mean {nearest}?"
    there = [key for key in known if key.rpartition(".")[0] == section]
    if section and not there:
        return f"unknown key {path}: there are no keys below {section}"
    return f"unknown key {path}; known: {', '.join(there)}"


def nearest_name(name: object, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if there is one."""
    return next(iter(difflib.get_close_matches(str(name), list(names), n=1)), None)


def unknown_name(section: str, name: object, names: Collection[str]) -> str:
    """The line for a component that does not exist, with the one that was probably meant and all there are."""
    if not isinstance(name, str):
        return f"{section} should be a name ({', '.join(names)}), got {show(name)}"
    nearest = nearest_name(name, names)
    meant = f"; did you mean {nearest}?" if nearest else ";"
    return f"unknown {section} {name!r}{meant} known: {', '.join(names)}"


def show(value: object) -> str:
    """A value as a person would write it in a file."""
    return json.dumps(value, default=str, ensure_ascii=False)


def _likeness(one: str, other: str) -> float:
    """1 for equal words, 0 for words that share nothing."""
    return difflib.SequenceMatcher(None, one, other).ratio()


def _path(section: str, location: Iterable[int | str]) -> str:
    """`section.key[0]`; what pydantic adds below that (the branch of a union) is left out."""
    first, *rest = location
    path = f"{section}.{first}" if section else f"{first}"
    for part in rest:
        if isinstance(part, int):
            path += f"[{part}]"
        elif path == "rollout":
            path += f".{part}"
    return path
