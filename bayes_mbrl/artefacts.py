"""What a run leaves behind beside its checkpoint: data, posterior, ArviZ file and a picture."""

import json
import pathlib

import torch

from bayes_mbrl.algorithms.episode import Episode
from bayes_mbrl.analysis.arviz_tree import save_tree
from bayes_mbrl.analysis.plots import (
    Fan,
    LearningCurve,
    ParameterDraws,
    Shares,
    curve_figure,
    parameters_figure,
    run_figure,
    save_figure,
)
from bayes_mbrl.analysis.uncertainty import split_predictive_variance
from bayes_mbrl.arviz_export import dynamics_tree
from bayes_mbrl.build import Builder
from bayes_mbrl.checkpoint import RunState
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.physics import PhysicsDynamics
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments.known_truth import KNOWN_PARAMETERS
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.fit_record import save_tensors
from bayes_mbrl.inference.base import Posterior, Theta, sample_prior, save_posterior
from bayes_mbrl.rollout import imagine
from bayes_mbrl.seeding import generator_for

NUM_PARAMETER_DRAWS = 10_000
"""K in the picture of named parameters."""
NUM_DRAWS = 100
"""K in the picture's uncertainties."""
FAN_LENGTH = 50
"""Steps that the picture looks ahead."""
FAN_SAMPLES = 40
"""K of the fan in the picture."""
DIVERGED = 1e6
"""Times the largest number in the data: what goes beyond cannot be drawn."""


def write(
    folder: pathlib.Path, builder: Builder, state: RunState, evaluation: list[Episode]
) -> dict[str, pathlib.Path]:
    """Write everything; returns the paths by what they hold. Without a posterior there is nothing of it."""
    assert state.transitions is not None
    paths = {"picture": folder / "run.png"}
    with writing(folder, f"what was learned is in the checkpoint: make room, then bayes-mbrl resume {folder}"):
        if state.posterior is None:
            save_figure(curve_figure(_learning_curve(builder, state, evaluation)), paths["picture"])
        else:
            paths |= _write_knowledge(folder, builder, state, evaluation)
        if state.learned:
            paths["learned by the algorithm"] = folder / "learned.safetensors"
            save_tensors(state.learned, folder / "learned.safetensors")
        if evaluation:
            paths["evaluation episodes"] = folder / "evaluation.npz"
            Transitions.concatenate([episode.transitions for episode in evaluation]).save(paths["evaluation episodes"])
        paths |= {
            "transitions": folder / "transitions.npz",
            "metrics": folder / "metrics.jsonl",
            "evaluation": folder / "evaluation.json",
            "configuration": folder / "config.yaml",
        }
        state.transitions.save(paths["transitions"])
        returns = [episode.total_reward for episode in evaluation]
        write_text(paths["evaluation"], json.dumps({"num_transitions": len(state.transitions), "returns": returns}))
    return paths


def _write_knowledge(
    folder: pathlib.Path, builder: Builder, state: RunState, evaluation: list[Episode]
) -> dict[str, pathlib.Path]:
    """The posterior in its own form and in ArviZ's, and pictures of what it says."""
    assert state.transitions is not None
    assert state.posterior is not None
    paths = {
        "picture": folder / "run.png",
        "ArviZ": folder / "posterior.nc",
        "posterior": folder / "posterior" / "posterior.safetensors",
    }
    # The last episode of evaluation was never learned from; without one, the last of training has to do.
    shown = evaluation[-1].transitions if evaluation else _last_episode(state.transitions)
    fitted = state.transitions[: state.num_fitted]
    dynamics, physics = builder.learned_dynamics(fitted, state.posterior), builder.dynamics(fitted)
    theta = state.posterior.sample(NUM_DRAWS, generator=_generator(builder, "draws"))
    paths["posterior"].parent.mkdir(exist_ok=True)
    save_posterior(state.posterior, paths["posterior"])
    save_tensors(state.fit, paths["posterior"].with_name("fit.safetensors"))
    tree = dynamics_tree(
        dynamics,
        state.posterior,
        state.transitions,
        generator=_generator(builder, "noise"),
        record=state.fit,
        attributes={"environment": builder.config.env, "posterior_family": builder.config.posterior.name},
    )
    save_tree(tree, paths["ArviZ"])
    curve = _learning_curve(builder, state, evaluation)
    figure = run_figure(
        curve=curve, fan=_fan(builder, dynamics, state, shown), shares=_shares(dynamics, theta, shown[:FAN_LENGTH])
    )
    save_figure(figure, paths["picture"])
    if isinstance(physics, PhysicsDynamics):
        paths["parameters"] = folder / "parameters.png"
        draws = _parameter_draws(builder, physics, state.posterior)
        save_figure(parameters_figure(draws, name=f"{curve.name}: 90 % intervals"), paths["parameters"])
    return paths


def summary(state: RunState, evaluation: list[Episode]) -> dict[str, object]:
    """What the closing table shows, by label."""
    assert state.transitions is not None
    returns = torch.tensor([episode.total_reward for episode in evaluation])
    spread = f" ± {returns.std():.1f} (sd of {len(returns)} episodes)" if len(returns) > 1 else ""
    return {
        "environment steps": len(state.transitions),
        "evaluation return": f"{returns.mean():.1f}{spread}" if evaluation else "not evaluated",
    }


def _generator(builder: Builder, what: str) -> torch.Generator:
    index = {"draws": 0, "fan": 1, "noise": 2, "parameters": 3}[what]
    return generator_for(builder.config.seed, "report", 2**31 + index)


def _last_episode(transitions: Transitions) -> Transitions:
    return transitions[transitions.episode == transitions.episode[-1]]


def _learning_curve(builder: Builder, state: RunState, evaluation: list[Episode]) -> LearningCurve:
    returns = torch.tensor([m["return"] for m in state.metrics])
    return LearningCurve(
        returns.numpy(),
        base_policy_episodes=sum(m["phase"] == "base policy" for m in state.metrics),
        evaluation_returns=torch.tensor([episode.total_reward for episode in evaluation]).numpy(),
        name=", ".join((builder.config.env, *builder.config.method)),
        learned_label="planned" if builder.plans else "by what was learned",
    )


def _fan(builder: Builder, dynamics: Dynamics, state: RunState, episode: Transitions) -> Fan:
    """Trajectories imagined from the episode's first state under the actions that were really taken."""
    assert state.posterior is not None
    length = min(FAN_LENGTH, len(episode))
    imagined = imagine(
        episode.action[:length],
        episode.state[0],
        posterior=state.posterior,
        dynamics=dynamics,
        num_theta=FAN_SAMPLES,
        generator=_generator(builder, "fan"),
    )
    real = torch.cat([episode.state[:1], episode.next_state[:length]])
    # Drawn as far as every trajectory can be: leaving out those that diverge would flatter the model. NaN is not <=.
    drawable = (imagined.abs() <= DIVERGED * real.abs().max().clamp(min=1)).all(-1).flatten(0, 1).all(0)
    num_drawn = max(2, int(drawable.long().cumprod(0).sum()))
    limit = DIVERGED * float(real.abs().max().clamp(min=1))
    return Fan(
        imagined[:, :, :num_drawn].nan_to_num(limit).clamp(-limit, limit).numpy(),
        real[:num_drawn].numpy(),
        dimension_names=builder.environment.state_names,
        time_step_label="time step",
        dimension_scale=Standardiser.fitted(episode.state).std.numpy(),
    )


def _parameter_draws(builder: Builder, dynamics: PhysicsDynamics, posterior: Posterior) -> list[ParameterDraws]:
    """Posterior, prior and, where it is known, truth of all parameters and derived quantities but the noise."""
    generator = _generator(builder, "parameters")
    learned = dynamics.parameters(posterior.sample(NUM_PARAMETER_DRAWS, generator=generator))
    believed = dynamics.parameters(sample_prior(dynamics.model, NUM_PARAMETER_DRAWS, generator=generator))
    truth = {**KNOWN_PARAMETERS.get(builder.environment.spec.name, {}), **dynamics.system.truth}
    units = dynamics.system.units
    return [
        ParameterDraws(
            name.replace("_", " "), units.get(name, ""), learned[name].numpy(), believed[name].numpy(), truth.get(name)
        )
        for name in learned
        if name != "noise_std"
    ]


def _shares(dynamics: Dynamics, theta: Theta, episode: Transitions) -> Shares:
    """Epistemic and aleatoric variance of one-step predictions along the episode, summed over standardised targets."""
    mean, std = dynamics.predict_targets(theta, dynamics.regression_data(episode)[0])
    split = split_predictive_variance(mean[..., : dynamics.continuous_dim], std[..., : dynamics.continuous_dim])
    return Shares(split.epistemic.sum(-1).numpy(), split.aleatoric.sum(-1).numpy())
