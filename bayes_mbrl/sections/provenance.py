"""With what a run was made: its configuration, the command and the versions, and in what several runs differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from bayes_mbrl.analysis.charts import Section, Table
from bayes_mbrl.errors import UserError
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.yaml_subset import read_mapping

ABSENT = "—"
"""Where a run has no such setting."""


def section(runs: Sequence[LoadedRun]) -> Section:
    """All settings of one run; of several, first those in which they differ, a column for each run."""
    names = run_names(runs)
    missing: list[str] = []
    recorded: list[Mapping[str, Any]] = []
    for name, run in zip(names, runs, strict=True):
        try:
            recorded.append(_recorded(run))
        except UserError as error:
            recorded.append({})
            missing.append(f"the command and versions of {name}: {error}")
    settings, versions = [settings_of(run) for run in runs], [_flat(r.get("versions", {})) for r in recorded]
    commands = [str(r.get("command") or ABSENT) for r in recorded]
    if len(runs) == 1:
        tables = [
            Table(("setting", "value"), list(settings[0].items()), "Configuration"),
            Table(("program", "version"), list(versions[0].items()), "Versions"),
        ]
        return Section("Configuration and versions", [f"Command: {commands[0]}"], tables=tables, missing=missing)
    differ, same = _compared(settings)
    other_versions, same_versions = _compared(versions)
    text = [f"{len(differ)} settings differ between the {len(runs)} runs; {len(same)} are the same."]
    environments = {run.config.env for run in runs}
    if len(environments) > 1:
        text.append(f"The runs are of {len(environments)} environments: their returns and errors do not compare.")
    if other_versions:
        text.append("The runs were made with different versions of programs.")
    tables = [
        Table(("setting", *names), differ, "In what the runs differ"),
        Table(("run", "command"), list(zip(names, commands, strict=True)), "Commands"),
        Table(("program", *names), other_versions, "Versions that differ"),
        Table(("setting", "value"), same, "The same in all runs"),
        Table(("program", "version"), same_versions, "Versions"),
    ]
    return Section(
        "Configuration and versions", text, tables=[table for table in tables if table.rows], missing=missing
    )


def run_names(runs: Sequence[LoadedRun]) -> list[str]:
    """A name for each run: its folder's; where two are called alike, with the folder around it, or a number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(run.folder.resolve().parts[-2:]) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names


def settings_of(run: LoadedRun) -> dict[str, str]:
    """All settings of a run by their full names, as text: {"planner.horizon": "20"}."""
    return _flat(run.config.to_mapping())


def _recorded(run: LoadedRun) -> Mapping[str, Any]:
    """What stands in the run's configuration file."""
    mapping, _ = read_mapping(run.folder / "config.yaml")
    return mapping


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list | tuple):
        value = f"[{', '.join(map(str, value))}]"
    return {name: "none" if value is None else str(value)} if name else {}


def _compared(columns: Sequence[Mapping[str, str]]) -> tuple[list[tuple[str, ...]], list[tuple[str, str]]]:
    """(rows in which the columns differ, rows in which they do not)."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name, ABSENT) for column in columns] for name in names}
    differ = [(name, *values) for name, values in rows.items() if len(set(values)) > 1]
    return differ, [(name, values[0]) for name, values in rows.items() if len(set(values)) == 1]
