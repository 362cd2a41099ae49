"""What the runs are, how far they came, and what of them could not be read."""

from collections.abc import Sequence

from bayes_mbrl.analysis.charts import Section, Table
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.sections.provenance import run_names


def section(runs: Sequence[LoadedRun]) -> Section:
    """A table of what was chosen and how much there is, a column for each run; all that is missing of them."""
    names = run_names(runs)
    text, missing = [], []
    for name, run in zip(names, runs, strict=True):
        who = f"{name}: " if len(runs) > 1 else ""
        missing += [f"{who}{sentence}" for sentence in run.missing]
        if not _has_ended(run):
            text.append(f"{who or 'The run: '}it has not ended; what there is so far is shown.")
    columns = [_facts(run) for run in runs]
    rows = [(fact, *(column[fact] for column in columns)) for fact in columns[0]]
    heads = ("run", *names)
    return Section("What this is", text, tables=[Table(heads, rows)], missing=missing)


def _facts(run: LoadedRun) -> dict[str, str]:
    config, transitions = run.config, run.transitions
    episodes = f"{_num_episodes(run)} of {config.num_episodes}"
    if _has_ended(run) and _num_episodes(run) < config.num_episodes:
        episodes = f"{_num_episodes(run)}, ended by num_steps={config.num_steps}"
    return {
        "environment": config.env,
        "posterior": config.posterior.name,
        "dynamics": config.dynamics.name,
        "planner": config.planner.name,
        "objective": config.objective.name,
        "propagation": config.propagation.name,
        "seed": str(config.seed),
        "training episodes": episodes,
        "transitions": "none could be read" if transitions is None else f"{len(transitions):,}",
        "learned from": "no posterior" if run.final is None else f"{run.final.num_fitted:,} transitions",
        "posteriors kept": f"of {len(run.snapshots)} episodes" if run.snapshots else "none of single episodes",
    }


def _num_episodes(run: LoadedRun) -> int:
    return len(run.metrics) or len(run.episodes)


def _has_ended(run: LoadedRun) -> bool:
    config, transitions = run.config, run.transitions
    limited = config.num_steps is not None and transitions is not None and len(transitions) >= config.num_steps
    return limited or _num_episodes(run) >= config.num_episodes
