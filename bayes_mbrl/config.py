"""What runs: one validation for files, the command line and Python, which reports all mistakes at once.

Later sources win: signatures and the registry < what the chosen posterior and dynamics recommend < what the
environment recommends (but how long to run an algorithm may say itself) < the file < options and `key=value`. The
settings of a component (planner, posterior, ...) are the parameters of its function or class, so their names, types,
bounds and defaults are written once, where they belong.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import inspect
import math
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from annotated_types import Ge, Gt, Le

from bayes_mbrl import __version__, signatures, yaml_subset
from bayes_mbrl.config_problems import describe, nearest_name, unknown_name
from bayes_mbrl.config_sources import Layer, as_layer, read_assignments
from bayes_mbrl.errors import UserError
from bayes_mbrl.presets import find_file
from bayes_mbrl.registry import SECTIONS, Row, Table, is_own

_STRICT = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_RECORDED = ("versions", "command")
_RECORDED_VERSIONS = ("torch", "numpy", "gymnasium", "pyro-ppl", "safetensors")


@dataclasses.dataclass(frozen=True)
class Component:
    """One choice of a section and its settings, all of them."""

    section: str
    name: str
    settings: Mapping[str, Any]

    @property
    def row(self) -> Row:
        """The choice's row in the registry."""
        return SECTIONS[self.section].find(self.name)

    def build(self, *args: Any, **runtime: Any) -> Any:
        """Call the chosen function or class with the settings and with what is known at run time."""
        return self.row.load()(*args, **runtime, **self.settings)

    def check(self) -> None:
        """Raise ValueError when the settings are impossible together, as far as that can be told without data."""
        if (trial := SECTIONS[self.section].trial) is not None:
            asked_for = inspect.signature(self.row.load()).parameters
            self.build(**{name: value for name, value in trial().items() if name in asked_for})


class Rollout(pydantic.BaseModel):
    """How many samples a plan's return is averaged over."""

    model_config = _STRICT

    num_theta: Annotated[int, Gt(0)] = 10
    """K: draws of θ from the posterior."""
    num_noise: Annotated[int, Gt(0)] = 1
    """M: noise draws for each θ."""
    finalists: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the candidates that meet all θ: the best under the first third of them; 1: all do."""
    bf16: bool = False
    """Products of hidden layers in 8 bits of precision: faster where the processor can, for wide networks."""


class Config(pydantic.BaseModel):
    """Everything that decides what a run computes. Made by `resolve` and `from_mapping`."""

    model_config = pydantic.ConfigDict(**_STRICT, protected_namespaces=())

    env: str = "Pendulum-v1"
    seed: Annotated[int, Ge(0)] = 0
    device: str = "cpu"
    """Where plans are evaluated: cpu, cuda or cuda:<number>. Data are kept, and posteriors fitted, on the CPU."""
    num_episodes: Annotated[int, Gt(0)] = 5
    """Episodes in all, the first one by the base policy included."""
    num_steps: Annotated[int, Gt(0)] | None = None
    """No episode starts after this many environment steps; None: `num_episodes` alone decides."""
    num_base_steps: Annotated[int, Ge(0)] = 1
    """Episodes are the base policy's until there are so many environment steps; 1: the first episode is."""
    num_evaluation_episodes: Annotated[int, Ge(0)] = 5
    algorithm: Component
    posterior: Component
    dynamics: Component
    planner: Component
    objective: Component
    propagation: Component
    recalibration: Component = Component("recalibration", "none", {})
    rollout: Rollout = Rollout()

    @property
    def method(self) -> tuple[str, ...]:
        """What sets runs apart, for names and titles: the algorithm, unless it is the usual one, and the posterior, if
        there is one.
        """
        algorithm = self.algorithm
        names = [] if algorithm.name == SECTIONS["algorithm"].default else [algorithm.name]
        return (*names, *([self.posterior.name] if algorithm.row.learns_model else []))

    def to_mapping(self) -> dict[str, Any]:
        """Plain data from which `from_mapping` makes an equal configuration."""
        result: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, Component):
                result[key] = {"name": value.name, **value.settings} if value.settings else value.name
            else:
                result[key] = value.model_dump() if isinstance(value, pydantic.BaseModel) else value
        return result

    def to_yaml(self) -> str:
        """The text of a file from which `load` makes an equal configuration."""
        return yaml_subset.dump(self.to_mapping())


def resolve(
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    file: pathlib.Path | None = None,
    needs_environment: bool = True,
) -> Config:
    """The configuration of a command line: `key=value` overrides and options (by key; None: not given) over a file,
    or over a preset of this name where there is no such file.

    Raises UserError with a line for every mistake; an environment that is not there is one if it is needed.
    """
    written, problems = yaml_subset.read_mapping(find_file(file)) if file else ({}, [])
    typed, more = read_assignments(overrides, options or {})
    written = {key: value for key, value in written.items() if key not in _RECORDED}
    return _from_layers([written, typed], [*problems, *more], needs_environment)


def from_mapping(mapping: Mapping[str, Any]) -> Config:
    """The configuration with these values over the defaults. Raises UserError with a line for every mistake."""
    return _from_layers([mapping], [], needs_environment=True)


def load(path: pathlib.Path, *, needs_environment: bool = True) -> Config:
    """The configuration in a file. Raises UserError with a line for every mistake, see `resolve`."""
    return resolve(file=path, needs_environment=needs_environment)


def record(config: Config, command: str) -> str:
    """`to_yaml` and, ignored when it is loaded, the command and the versions that it ran with."""
    versions = {"bayes_mbrl": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _RECORDED_VERSIONS}
    return yaml_subset.dump({**config.to_mapping(), "command": command, "versions": versions})


@functools.cache
def settings_model(section: str, name: str) -> type[pydantic.BaseModel]:
    """The settings of a component as a strict pydantic model, read off the signature of its target."""
    table = SECTIONS[section]
    row = table.find(name)
    if not table.has_settings:
        return pydantic.create_model("settings", __config__=_STRICT)
    return signatures.settings_model(row.load(), without=table.runtime, defaults=row.settings, config=_STRICT)


@dataclasses.dataclass
class _Findings:
    """What is collected on the way, so that all of it is reported at once."""

    problems: list[str]
    errors: list[tuple[str, Mapping[str, Any]]] = dataclasses.field(default_factory=list)
    """(section, pydantic's error), to be described when all keys are known."""
    known: list[str] = dataclasses.field(
        default_factory=lambda: [*Config.model_fields, *(f"rollout.{key}" for key in Rollout.model_fields)]
    )
    """All keys of the configuration, with their sections."""

    def lines(self) -> list[str]:
        """Everything that was found, without repetitions."""
        described = [describe(error, section, self.known, _owners) for section, error in self.errors]
        return list(dict.fromkeys([*self.problems, *described]))


def _from_layers(mappings: Sequence[Mapping[str, Any]], problems: list[str], needs_environment: bool) -> Config:
    """What a person wrote, from weak to strong; every key in it must be known, unlike in the recommendations."""
    found = _Findings(problems)
    written = [as_layer(mapping, problems) for mapping in mappings]
    environment = _environment_defaults(written, problems if needs_environment else [])
    recommended: list[Layer] = []
    names: dict[str, str] = {}
    for section, table in SECTIONS.items():
        names[section] = _chosen_name(section, table, [*recommended, environment, *written], problems)
        recommended.append(as_layer(table.find(names[section]).defaults, problems))
    components = {
        section: _component(section, name, [*recommended, environment], written, found)
        for section, name in names.items()
    }
    values = _plain_values(
        [*recommended, environment, *_own_budget(names["algorithm"], environment, problems), *written]
    )
    problems += _conflicts(components, values["rollout"])
    placeholders = {section: part or Component(section, "", {}) for section, part in components.items()}
    try:
        config = Config.model_validate({**values, **placeholders})
    except pydantic.ValidationError as error:
        found.errors += [("", e) for e in error.errors()]
    if lines := found.lines():
        raise UserError("\n".join(lines))
    return config


def _own_budget(algorithm: str, environment: Layer, problems: list[str]) -> list[Layer]:
    """How long an algorithm recommends to run, where the environment recommends it for another algorithm."""
    table = SECTIONS["algorithm"]
    if environment.sections.get("algorithm", {}).get("name", table.default) == algorithm:
        return []
    return [Layer(as_layer(table.find(algorithm).defaults, problems).values, {})]


def _environment_defaults(written: Sequence[Layer], problems: list[str]) -> Layer:
    """What the chosen environment recommends; a problem when there is no such environment."""
    from bayes_mbrl.environments.registration import find_spec
    from bayes_mbrl.environments.specs import ENVIRONMENTS

    env = Config.model_fields["env"].default
    for layer in written:
        env = layer.values.get("env", env)
    if isinstance(env, str):  # anything else is reported as a wrong type
        try:
            layer = as_layer(find_spec(env).defaults, problems)
        except UserError as error:
            problems += str(error).splitlines()
        else:
            if env not in ENVIRONMENTS:
                problems += _unknown_defaults(layer, env)
            return layer
    return Layer({}, {})


def _unknown_defaults(layer: Layer, env: str) -> list[str]:
    """What a user's defaults name and no choice of a section has; what another choice has is left out in silence."""
    return [
        f"unknown key {section}.{key} in the defaults of {env}"
        for section, settings in layer.sections.items()
        if section in SECTIONS
        for key in settings
        if key != "name" and not _owners(section, key, at_most=1)
    ]


def _chosen_name(section: str, table: Table, layers: Sequence[Layer], problems: list[str]) -> str:
    """The name in the strongest layer that has one, or the table's default.

    For a wrong one, a problem, and the name that was probably meant: its settings help to judge the other keys.
    """
    name: object = table.default
    for layer in layers:
        name = layer.sections.get(section, {}).get("name", name)
    if isinstance(name, str) and is_own(name):
        try:
            row = table.find(name)
        except UserError as error:
            problems.append(f"{section}: {error}")
            return table.default
        if section == "posterior" and not row.posteriors:
            problems.append(f"{section} {name}: its Row has no posteriors=(...,), the classes that a run is read by")
        return name
    if isinstance(name, str) and name in table.rows:
        return name
    names = [*table.rows, *(alias for alias, row in table.aliases.items() if row in table.rows)]
    problems.append(unknown_name(section, name, names))
    nearest = nearest_name(name, names) or table.default
    return table.aliases.get(nearest, nearest)


def _component(
    section: str, name: str, recommended: Sequence[Layer], written: Sequence[Layer], found: _Findings
) -> Component | None:
    """The component with its settings, checked as far as is possible without data; None when something was wrong."""
    try:
        fields = settings_model(section, name).model_fields
    except UserError as error:
        found.problems.append(f"{section} {name}: {error}")
        return None
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        if not is_own(name):
            raise
        found.problems.append(f"{section} {name}: {type(error).__name__}: {error}")
        return None
    found.known += [f"{section}.{key}" for key in fields]
    settings: dict[str, Any] = {}
    for layer in recommended:
        settings |= {key: value for key, value in layer.settings(section, name).items() if key in fields}
    for layer in written:
        settings |= layer.settings(section, name)
    try:
        return _checked(section, name, settings, found)
    except pydantic.ValidationError as error:
        found.errors += [(section, e) for e in error.errors()]
        wrong = {e["loc"][0] for e in error.errors()}
        with contextlib.suppress(pydantic.ValidationError):  # one that is wrong may also be needed
            _checked(section, name, {key: value for key, value in settings.items() if key not in wrong}, found)
    return None


def _checked(section: str, name: str, settings: Mapping[str, Any], found: _Findings) -> Component | None:
    """The component, or None and a problem when its settings are impossible together; raises pydantic's error."""
    checked = settings_model(section, name).model_validate(_frozen(dict(settings)))
    component = Component(section, name, {key: getattr(checked, key) for key in type(checked).model_fields})
    try:
        component.check()
    except ValueError as error:
        found.problems.append(f"{section} {name}: {error}")
        return None
    return component


def _owners(section: str, key: str, at_most: int | None = None) -> list[str]:
    """The components of the section that have a setting of this name; each that is looked at is loaded."""
    names: list[str] = []
    table = SECTIONS[section]
    for name in sorted(table.rows, key=lambda name: name != table.default):
        if len(names) == at_most:
            break
        with contextlib.suppress(UserError):  # its packages are not installed
            if key in settings_model(section, name).model_fields:
                names.append(name)
    return names


def _plain_values(layers: Sequence[Layer]) -> dict[str, Any]:
    """All that is said outside the components."""
    rollout = {key: value for layer in layers for key, value in layer.sections.get("rollout", {}).items()}
    return {key: value for layer in layers for key, value in layer.values.items()} | {"rollout": rollout}


def _conflicts(components: Mapping[str, Component | None], rollout: Mapping[str, Any]) -> list[str]:
    """What a choice asks of the others and does not get."""
    problems = []
    for section, component in components.items():
        if component is None:
            continue
        who = f"{section} {component.name}"
        for other, needed in component.row.requires.items():
            got = components[other]
            if got is not None and got.name != needed:
                problems.append(f"{who} needs {other} {needed}, got {got.name}: write {other}={needed}")
        for key, least in component.row.at_least.items():
            value = rollout.get(key, Rollout.model_fields[key].default)
            if isinstance(value, int) and value < least:
                problems.append(f"{who} needs rollout.{key} >= {least}, got {value}")
    problems += _speed_conflicts(components, rollout)
    algorithm, planner = components["algorithm"], components["planner"]
    if algorithm is not None and planner is not None:
        replan_every, horizon = algorithm.settings.get("replan_every", 1), planner.settings["horizon"]
        if replan_every > horizon:
            problems.append(f"need algorithm.replan_every <= planner.horizon, got {replan_every} and {horizon}")
    return problems


def _speed_conflicts(components: Mapping[str, Component | None], rollout: Mapping[str, Any]) -> list[str]:
    """What saves work, and what it cannot be had with."""
    chosen = {section: component.name for section, component in components.items() if component is not None}
    finalists, bf16 = rollout.get("finalists", 1.0), rollout.get("bf16", False)
    fewer = isinstance(finalists, float) and finalists < 1
    problems = []
    if fewer and chosen.get("propagation") not in (None, "ts-infinity", "distribution-sampling"):
        problems.append(
            "rollout.finalists below 1 needs a propagation that keeps the θ of a particle, ts-infinity or "
            f"distribution-sampling, got {chosen['propagation']}"
        )
    if bf16 and chosen.get("dynamics") not in (None, "network"):
        problems.append(f"rollout.bf16 is for the hidden layers of dynamics network, got {chosen['dynamics']}")
    if (bf16 or fewer) and chosen.get("planner") == "gradient":
        problems.append("planner gradient needs rollout.bf16=false and rollout.finalists=1")
    if fewer and (planner := components["planner"]) is not None:
        num_elites, num_candidates = (planner.settings.get(key) or 0 for key in ("num_elites", "num_candidates"))
        if math.ceil(finalists * num_candidates) < num_elites:
            problems.append(
                f"need rollout.finalists · planner.num_candidates >= planner.num_elites, since elites are finalists, "
                f"got {finalists} · {num_candidates} and {num_elites}"
            )
    return problems


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value
