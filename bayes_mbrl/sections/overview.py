"""What the runs are, how far they came, and what of them could not be read."""

from collections.abc import Sequence

from bayes_mbrl.analysis.charts import Section, Table
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.sections.provenance import ABSENT, run_names


def section(runs: Sequence[LoadedRun]) -> Section:
    """A table of what was chosen and how much there is, a column for each run; all that is missing of them."""
    names = run_names(runs)
    text, missing = [], []
    for name, run in zip(names, runs, strict=True):
        who = f"{name}: " if len(runs) > 1 else ""
        missing += [f"{who}{sentence}" for sentence in run.missing]
        if not _has_ended(run):
            text.append(f"{who or 'The run: '}it has not ended; what there is so far is shown.")
        text += [f"{who}{sentence}" for sentence in _left_out(run)]
    columns = [_facts(run) for run in runs]
    facts = [fact for fact in columns[0] if any(column[fact] != ABSENT for column in columns)]
    rows = [(fact, *(column[fact] for column in columns)) for fact in facts]
    heads = ("run", *names)
    return Section("What this is", text, tables=[Table(heads, rows)], missing=missing)


def _left_out(run: LoadedRun) -> list[str]:
    """What an algorithm that plans by a posterior would be asked, and this one is not."""
    algorithm, name = run.config.algorithm.row, run.config.algorithm.name
    if not algorithm.learns_model:
        return [f"Algorithm {name} fits no posterior over dynamics: nothing is said of what a model knew."]
    if not algorithm.plans:
        return [f"Algorithm {name} acts by what it learned beside the posterior: nothing is said of plans."]
    return []


def _facts(run: LoadedRun) -> dict[str, str]:
    config, transitions, algorithm = run.config, run.transitions, run.config.algorithm.row
    episodes = f"{_num_episodes(run)} of {config.num_episodes}"
    if _has_ended(run) and _num_episodes(run) < config.num_episodes:
        episodes = f"{_num_episodes(run)}, ended by num_steps={config.num_steps}"
    return {
        "environment": config.env,
        "algorithm": config.algorithm.name,
        "posterior": config.posterior.name if algorithm.learns_model else ABSENT,
        "dynamics": config.dynamics.name if algorithm.learns_model else ABSENT,
        "planner": config.planner.name if algorithm.plans else ABSENT,
        "objective": config.objective.name if algorithm.plans else ABSENT,
        "propagation": config.propagation.name if algorithm.learns_model else ABSENT,
        "seed": str(config.seed),
        "training episodes": episodes,
        "transitions": "none could be read" if transitions is None else f"{len(transitions):,}",
        **(
            _of_posteriors(run)
            if algorithm.learns_model
            else dict.fromkeys(("learned from", "posteriors kept"), ABSENT)
        ),
    }


def _of_posteriors(run: LoadedRun) -> dict[str, str]:
    return {
        "learned from": "no posterior" if run.final is None else f"{run.final.num_fitted:,} transitions",
        "posteriors kept": f"of {len(run.snapshots)} episodes" if run.snapshots else "none of single episodes",
    }


def _num_episodes(run: LoadedRun) -> int:
    return len(run.metrics) or len(run.episodes)


def _has_ended(run: LoadedRun) -> bool:
    config, transitions = run.config, run.transitions
    limited = config.num_steps is not None and transitions is not None and len(transitions) >= config.num_steps
    return limited or _num_episodes(run) >= config.num_episodes
