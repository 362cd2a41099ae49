"""`bayes-mbrl run`, `fit`, `resume`, `evaluate`: what learns or acts."""

import pathlib
import shlex
from typing import Annotated

import typer

from bayes_mbrl.cli.shell import Debug, Run, command_line, one_thread, reported

_ALGORITHM = "How the model is used, by name or step of the lecture (v0.5 to v3.0): `bayes-mbrl list algorithms`."


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Any other setting, such as planner.horizon=25; see --print-config."),
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment: `bayes-mbrl list environments`, or any id of Gymnasium.")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help=_ALGORITHM)] = None,
    posterior: Annotated[str | None, typer.Option(help="How p(θ|D) is approximated.")] = None,
    planner: Annotated[str | None, typer.Option(help="How a plan is searched.")] = None,
    objective: Annotated[str | None, typer.Option(help="What makes a plan good.")] = None,
    propagation: Annotated[str | None, typer.Option(help="How uncertainty travels over the horizon.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed of the run.")] = None,
    device: Annotated[str | None, typer.Option(help="Where plans are evaluated: cpu, or cuda where there is.")] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="New folder for the run.  [default: one in runs/]")] = None,
    config_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings as YAML, or a name from `bayes-mbrl list presets`; the command line wins.",
        ),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print what would run, and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Learn an environment's dynamics and act by them; without arguments, swing up a pendulum."""
    choices = {"env": env, "algorithm": algorithm, "posterior": posterior, "planner": planner}
    choices |= {"objective": objective, "propagation": propagation}
    with reported(debug) as session:
        from bayes_mbrl.config import resolve

        config = resolve(overrides or [], options={**choices, "seed": seed, "device": device}, file=config_file)
        if print_config:
            typer.echo(config.to_yaml(), nl=False)
            return
        from bayes_mbrl import experiment, progress, run_folder
        from bayes_mbrl.build import Builder
        from bayes_mbrl.environments.adapter import Environment

        one_thread()
        with Environment(config.env) as environment:
            Builder(config, environment)  # what cannot be served is refused before a folder is made
        session.folder = run_folder.new_run_folder(out, config, command=command_line())
        with progress.for_this_terminal() as observer:
            experiment.run_experiment(config, session.folder, observer=observer)
        typer.echo(
            f"what it knows, and whether to believe it: {shlex.join(['bayes-mbrl', 'report', str(session.folder)])}"
        )


def fit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A Minari dataset on this machine, the folder of a run, or an .npz file as a run's transitions.npz.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any other setting, as for bayes-mbrl run.")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="The environment that the data are from.  [default: as recorded, if it is here]")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="Who acts later, by what was learned.")] = None,
    posterior: Annotated[str | None, typer.Option(help="How p(θ|D) is approximated.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed of the run.")] = None,
    hold_out: Annotated[
        int, typer.Option(min=0, help="How many of the last episodes only judge the model, in the report.")
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="Where evaluate and resume plan later: cpu, or cuda where there is.")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="New folder for the run.  [default: one in runs/]")] = None,
    debug: Debug = False,
) -> None:
    """Learn from data that were recorded elsewhere, without acting; then report, diagnose, evaluate or resume."""
    with reported(debug):
        from bayes_mbrl import offline, progress, run_folder

        one_thread()
        recording = offline.read_data(data)
        options = {"env": env, "algorithm": algorithm, "posterior": posterior, "seed": seed, "device": device}
        warn = lambda text: typer.echo(f"warning: {text}", err=True)  # noqa: E731
        config = offline.configure(recording, overrides or [], options=options, warn=warn)
        offline.check(config, recording, hold_out)
        folder = run_folder.new_run_folder(out, config, command=command_line())
        with progress.for_this_terminal() as observer:
            offline.fit_offline(config, recording, folder, hold_out=hold_out, observer=observer)
        typer.echo(f"what it knows, and whether to believe it: {shlex.join(['bayes-mbrl', 'report', str(folder)])}")


def resume(
    folder: Run,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Episodes in all.  [default: as the run was started]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped, or with more episodes than it had."""
    with reported(debug) as session:
        from bayes_mbrl import experiment, progress

        one_thread()
        session.folder = folder
        with progress.for_this_terminal() as observer:
            experiment.resume_experiment(folder, num_episodes=episodes, observer=observer)


def evaluate(
    folder: Run,
    episodes: Annotated[int | None, typer.Option(min=1, help="How many episodes.  [default: as in the run]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the start states.  [default: the run's]")] = None,
    env: Annotated[
        str | None, typer.Option(help="Another environment of the same states and actions.  [default: the run's]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Act with what a run has learned, and learn nothing more."""
    with reported(debug):
        from bayes_mbrl import experiment, progress

        one_thread()
        with progress.for_this_terminal() as observer:
            returns = experiment.evaluate_run(folder, num_episodes=episodes, seed=seed, env=env, observer=observer)
        typer.echo(_spread(returns))


def _spread(returns: list[float]) -> str:
    """Mean and spread of returns, in a line."""
    import statistics

    if not returns:
        return "no evaluation episodes"
    if len(returns) == 1:
        return f"evaluation return: {returns[0]:.1f} (1 episode)"
    spread = statistics.stdev(returns)
    mean = statistics.fmean(returns)
    return f"evaluation return: {mean:.1f} ± {spread:.1f} (mean ± standard deviation of {len(returns)} episodes)"
