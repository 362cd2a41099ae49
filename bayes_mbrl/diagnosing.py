"""`bayes-mbrl diagnose`: verdicts on a run, their pictures, the ArviZ file, and refits where they are asked for."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from bayes_mbrl.analysis.arviz_tree import save_tree
from bayes_mbrl.analysis.charts import Chart, Table
from bayes_mbrl.analysis.diagnostics import Severity, Verdict, verdict_table
from bayes_mbrl.analysis.model_comparison import comparison_chart, comparison_table, contiguous_folds
from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.arviz_export import dynamics_tree
from bayes_mbrl.build import Builder
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.refits import KFold, compare_families, family_config, k_fold_of_run
from bayes_mbrl.sections.diagnosis import diagnose, record_of
from bayes_mbrl.seeding import stream_seed

DEFAULT_FOLDS = 5
_FAR = 5.0
"""Nats between the mean and the median of what rows were predicted with."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What the command prints."""

    text: tuple[str, ...]
    tables: tuple[Table, ...]
    missing: tuple[str, ...]
    paths: tuple[pathlib.Path, ...]
    """What was written."""


def diagnose_run(
    folder: pathlib.Path,
    *,
    against: Sequence[str] = (),
    folds: int | None = None,
    out: pathlib.Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Verdicts on a run, and into `out`, by default diagnosis/ in the run's folder, pictures, verdicts and ArviZ file.

    `against` are names of other families, which are refitted to the same data and compared by K-fold, `folds` times
    each; with `folds` alone the run's own family is refitted. With neither that is done where leave-one-out cannot be
    trusted; `folds` 0 leaves it out. Refits are announced by `progress` with what they cost.
    Raises UserError for what is no run, runs without a posterior, unknown families and impossible folds, before any
    work.
    """
    if against and folds == 0:
        raise UserError("families are compared by K-fold, got --against and --folds 0: leave one of them out")
    with open_run(folder) as run:
        if not run.config.algorithm.row.learns_model:
            raise UserError(
                f"algorithm {run.config.algorithm.name} fits no posterior, so there is no inference to diagnose: see "
                f"bayes-mbrl report {folder}"
            )
        out = run.folder / "diagnosis" if out is None else out
        configs = {
            name: family_config(run.config, name) for name in dict.fromkeys([run.config.posterior.name, *against])
        }
        wanted = DEFAULT_FOLDS if folds is None and against else folds or None
        if wanted is not None:
            _check_folds(run, wanted)
        found = diagnose(run)
        if folds is None and wanted is None and _needs_k_fold(run, found.verdicts):
            wanted = DEFAULT_FOLDS
            progress("leave-one-out cannot be trusted here, so K-fold is done instead; --folds 0 leaves it out")
        verdicts, missing = list(found.verdicts), [*run.missing, *found.missing]
        if run.config.posterior.name in against:
            missing.append(f"--against {run.config.posterior.name}: the run's own family, which is always compared")
        tables: list[Table] = []
        charts = dict(found.figures)
        if wanted is not None and run.builder is not None:
            builders = {name: Builder(config, run.builder.environment) for name, config in configs.items()}
            _refits(run, builders, wanted, progress, verdicts, tables, charts, missing)
        paths = _write(run, out, verdicts, charts)
    if verdicts:
        tables.insert(0, verdict_table(verdicts))
    return Report(found.text, tuple(tables), tuple(missing), tuple(paths))


def _needs_k_fold(run: LoadedRun, verdicts: Sequence[Verdict]) -> bool:
    """Whether PSIS-LOO failed, and there is enough to refit."""
    failed = any(verdict.name == "PSIS-LOO" and verdict.severity != "good" for verdict in verdicts)
    return failed and run.builder is not None and run.final is not None and run.final.num_fitted >= DEFAULT_FOLDS


def _check_folds(run: LoadedRun, folds: int) -> None:
    if run.builder is None or run.transitions is None or run.final is None:
        raise UserError("there is nothing to refit: " + "; ".join(run.missing or ("no transitions",)))
    if not 2 <= folds <= run.final.num_fitted:
        raise UserError(f"need 2 <= --folds <= {run.final.num_fitted}, the number of transitions, got {folds}")


def _refits(
    run: LoadedRun,
    builders: dict[str, Builder],
    num_folds: int,
    progress: Callable[[str], None],
    verdicts: list[Verdict],
    tables: list[Table],
    charts: dict[str, Chart],
    missing: list[str],
) -> None:
    """K-fold of each family: a verdict on the run's own, a table and a picture of several."""
    assert run.transitions is not None
    assert run.final is not None
    fitted = run.transitions[: run.final.num_fitted]
    episodes = fitted.episode.numpy()
    folds = contiguous_folds(len(fitted), num_folds, episodes)
    whole = len(set(episodes.tolist())) >= num_folds
    kinds = "whole episodes" if whole else "contiguous blocks of rows"
    progress(
        f"{len(builders)} x {num_folds} refits of {len(fitted)} transitions, held out as {kinds}, each about as long "
        "as a fit of the run and from nothing: " + ", ".join(_words(builder) for builder in builders.values())
    )
    seed = stream_seed(run.config.seed, "report", 2**31 + 7)
    results = {
        name: k_fold_of_run(builder, fitted, folds, seed=seed >> 1, progress=progress)
        for name, builder in builders.items()
    }
    verdicts.append(_k_fold_verdict(results[run.config.posterior.name], num_folds, kinds))
    comparison, notes = compare_families(results, episodes if len(set(episodes.tolist())) > 1 else None)
    missing += notes
    if comparison is not None and len(builders) > 1:
        table = comparison_table(
            comparison, f"K-fold over {kinds}, errors over {comparison.num_groups} episodes or rows"
        )
        columns = ["model", "dynamics", *table.columns[1:]]
        rows = [
            (row[0], builders[row[0]].config.dynamics.name + _width(builders[row[0]]), *row[1:]) for row in table.rows
        ]
        tables.append(Table(columns, rows, table.title))
        charts["families"] = comparison_chart(comparison)


def _k_fold_verdict(result: KFold, num_folds: int, kinds: str) -> Verdict:
    known = result.elpd[np.isfinite(result.elpd)]
    if not len(known):
        return Verdict("K-fold", math.nan, f"all {num_folds} refits failed: {result.failures[0]}", "bad")
    mean, median = float(known.mean()), float(np.median(known))
    text = f"elpd {known.sum():.1f} nats over {len(known)} transitions, {mean:.3f} each (median {median:.3f})"
    text += f", in {num_folds} folds of {kinds}"
    far = mean < median - _FAR
    if far:
        text += "; a few rows that it was sure of and wrong about decide: overconfident off what it has learned from"
    text += f"; {len(result.failures)} refits failed" if result.failures else ""
    severity: Severity = "bad" if result.failures or far else "good"
    return Verdict("K-fold", mean, text, severity)


def _words(builder: Builder) -> str:
    return f"{builder.config.posterior.name} ({builder.config.dynamics.name}{_width(builder)})"


def _width(builder: Builder) -> str:
    hidden = builder.config.dynamics.settings.get("hidden")
    return "" if hidden is None else f" {'x'.join(map(str, hidden))}" if hidden else ""


def _write(
    run: LoadedRun, out: pathlib.Path, verdicts: Sequence[Verdict], charts: dict[str, Chart]
) -> list[pathlib.Path]:
    """Pictures by name, the verdicts as JSON (what is not finite as null), the tree; other files stay."""
    paths = []
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        rows = [
            {**dataclasses.asdict(verdict), "value": verdict.value if math.isfinite(verdict.value) else None}
            for verdict in verdicts
        ]
        paths.append(out / "verdicts.json")
        write_text(paths[-1], json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        for name, chart in charts.items():
            paths.append(out / f"{re.sub(r'[^a-z0-9]+', '-', name)}.png")
            save_chart(chart, paths[-1])
        if run.final is not None and run.transitions is not None:
            tree = dynamics_tree(
                run.final.dynamics,
                run.final.posterior,
                run.transitions[: run.final.num_fitted],
                generator=run.generator("diagnosis tree"),
                record=record_of(run),
                attributes={"environment": run.config.env, "posterior_family": run.config.posterior.name},
            )
            paths.append(out / "posterior.nc")
            save_tree(tree, paths[-1])
    return paths
