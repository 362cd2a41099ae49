"""Where values come from: layers of a configuration, and the assignments of a command line."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bayes_mbrl import yaml_subset
from bayes_mbrl.config_problems import show
from bayes_mbrl.registry import SECTIONS, is_own


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one source says."""

    values: Mapping[str, Any]
    """Keys outside all sections."""
    sections: Mapping[str, Mapping[str, Any]]
    """Keys of the components, `name` among them, and of `rollout`."""

    def settings(self, section: str, name: str) -> dict[str, Any]:
        """What this source says about the component `name`: nothing, when it speaks of another one there is."""
        given = self.sections.get(section, {})
        named = given.get("name", name)
        if named != name and (named in SECTIONS[section].rows or is_own(str(named))):
            return {}
        return {key: value for key, value in given.items() if key != "name"}


def as_layer(mapping: Mapping[str, Any], problems: list[str]) -> Layer:
    """The layer of a nested mapping, in which a section may be given by its bare name."""
    values: dict[str, Any] = {}
    sections: dict[str, Mapping[str, Any]] = {}
    for key, value in mapping.items():
        if key not in SECTIONS and key != "rollout":
            values[key] = value
        elif isinstance(value, Mapping):
            sections[key] = value
        elif isinstance(value, str) and key in SECTIONS:
            sections[key] = {"name": value}
        else:
            problems.append(_needs_mapping(key, value))
    return Layer(values, {section: _without_alias(section, given) for section, given in sections.items()})


def _without_alias(section: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same under the row's own name."""
    name = given.get("name")
    if section in SECTIONS and isinstance(name, str) and name in SECTIONS[section].aliases:
        return {**given, "name": SECTIONS[section].aliases[name]}
    return given


def read_assignments(overrides: Sequence[str], options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the nested mapping, one line for every problem) of `key=value` overrides and of options by key.

    An option that is None was not given. The same key may be given twice only with the same value.
    """
    problems: list[str] = []
    leaves: dict[str, tuple[Any, str]] = {}
    for key, value in options.items():
        if value is not None:
            _assign(leaves, key, value, f"--{key.replace('_', '-')} {value}", problems)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not text.strip() or not all(key.split(".")):
            problems.append(f"cannot read {override!r}: write key=value, such as planner.horizon=25")
            continue
        value, found = yaml_subset.parse(text, override)
        problems += [override + re.sub(r"^, line \d+(, column \d+)?", "", p.removeprefix(override)) for p in found]
        if not found:
            _assign(leaves, key, value, override, problems)
    return _nested(leaves), problems


def _assign(leaves: dict[str, tuple[Any, str]], key: str, value: Any, source: str, problems: list[str]) -> None:
    """Add to `leaves` {key with dots: (value, source)}; a mapping given to a section is taken apart."""
    if key in SECTIONS and isinstance(value, str):
        key += ".name"
    if key in SECTIONS or key == "rollout":
        if not isinstance(value, dict):
            problems.append(_needs_mapping(key, value))
            return
        for part, part_value in value.items():
            _assign(leaves, f"{key}.{part}", part_value, source, problems)
        return
    before, before_source = leaves.setdefault(key, (value, source))
    if (type(before), before) != (type(value), value):
        problems.append(f"{before_source} and {source} contradict each other: keep one of them")


def _nested(leaves: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, (value, _) in leaves.items():
        section, _, rest = key.partition(".")
        if rest and (section in SECTIONS or section == "rollout"):
            result.setdefault(section, {})[rest] = value
        else:
            result[key] = value
    return result


def _needs_mapping(key: str, value: Any) -> str:
    allowed = (
        "a mapping such as {num_theta: 20}"
        if key == "rollout"
        else f"a name ({', '.join(SECTIONS[key].rows)}) or a mapping"
    )
    return f"{key} should be {allowed}, got {show(value)}"
