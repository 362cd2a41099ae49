"""What a run is, how far it came, and what of it could not be read."""

import pathlib

from bayes_mbrl.analysis.charts import Section, Table
from bayes_mbrl.loaded_run import LoadedRun


def section(run: LoadedRun) -> Section:
    """A table of what was chosen and how much there is; all that `missing` says."""
    config = run.config
    done = len(run.metrics) or len(run.episodes)
    shown = {
        "environment": config.env,
        "posterior": config.posterior.name,
        "dynamics": config.dynamics.name,
        "planner": f"{config.planner.name}, objective {config.objective.name}, propagation {config.propagation.name}",
        "seed": str(config.seed),
        "training episodes": f"{done} of {config.num_episodes}",
        "transitions": "none could be read" if run.transitions is None else f"{len(run.transitions):,}",
        "learned from": "no posterior" if run.final is None else f"{run.final.num_fitted:,} transitions",
        "posteriors kept": _snapshots(run),
        "folder": str(_shortened(run.folder)),
    }
    text = []
    limited = config.num_steps is not None and run.transitions is not None and len(run.transitions) >= config.num_steps
    if done < config.num_episodes and not limited:
        text.append("The run has not ended: the report shows what there is so far.")
    table = Table(("", ""), list(shown.items()))
    return Section("The run", text=text, tables=[table], missing=run.missing)


def _snapshots(run: LoadedRun) -> str:
    if not run.snapshots:
        return "the last one only" if run.final is not None else "none"
    episodes = sorted(run.snapshots)
    return f"after {len(episodes)} episodes, the first {episodes[0]}, the last {episodes[-1]}"


def _shortened(folder: pathlib.Path) -> pathlib.Path:
    """The last two parts: who gets the page need not learn where on a disk it was made."""
    return pathlib.Path(*folder.resolve().parts[-2:])
