"""Study 9: what becomes of a gradient on its way back through a trajectory.

A policy of random weights acts in the true dynamics of three environments. How much the state after h steps depends on
the first action, ‖∂s_h / ∂a_0‖, with all that the policy answers on the way, is a product of h Jacobians: nature chose
their size. The gradient that version 2.0 follows, ‖∂R_H / ∂φ‖ of the return over H steps by the policy's parameters,
adds such products up. It cannot vanish itself, since the last actions are always near, and it grows as a power of H
though nothing stretches it, since it has more terms: as H² where no Jacobian and no reward grows. So it is said to
explode where it outgrows a power of H, that is where its exponent is larger from H = 20 to 40 than from 10 to 20, and
early steps to be lost to it where that exponent is smaller. (A sum of several powers has a rising exponent as well.)

An early action moves more rewards than a late one; what is judged is therefore ‖∂R_H / ∂a_t‖ over the H − t rewards
that a_t can move, at t = 0 against t = H / 2. How steep the rewards are there counts too.
Axes: B starts, S state, A action.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import CYCLE, Chart, Line
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.environments.rewards import RewardFunction
from bayes_mbrl.policies import Policy, make_policy
from bayes_mbrl.study import Contrast, Results, Study, difference, per_seed

LENGTHS = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40)
DOUBLED = (10, 20, 40)
"""Between which exponents are taken. Before them a sum has few terms, and a reward of the state before its step does
not know the action."""
EXPLODING, SWINGING, VANISHING = "ContinuousCartPole-v0", "Pendulum-v1", "LinearGaussian-v0"


def squared_state(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−‖s'‖²: for ContinuousCartPole-v0, whose own reward, 1 for each step, has no gradient to follow."""
    return -next_state.square().sum(-1)


def measure(folder: pathlib.Path, *, env: str, seed: int, quick: bool) -> dict[str, Any]:
    """Norms for one random policy: the mean of their logarithms over start states, which the environment draws."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    with Environment(env) as environment:
        starts = torch.stack([environment.reset(seed=1000 * seed + i) for i in range(20 if quick else 100)])
        low, high, reward = environment.low, environment.high, environment.spec.reward
    policy = make_policy("deterministic", starts.shape[1], low, high, hidden=(32,), generator=generator)
    if env == EXPLODING or reward is None:
        reward = squared_state
    return log_norms(act(policy, starts, KNOWN_STEPS[env], reward), policy)


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """From B starts, over the longest of LENGTHS."""

    states: list[Tensor]
    """s_0 … s_H, each [B, S]"""
    nudges: list[Tensor]
    """What was added to a_0 … a_{H−1}, each [B, A]: nothing."""
    rewards: list[Tensor]
    """r_0 … r_{H−1}, each [B]"""


def act(
    policy: Policy, starts: Tensor, step: Callable[[Tensor, Tensor], Tensor], reward: RewardFunction
) -> Trajectories:
    """The policy's actions without noise, from starts [B, S] on; the graph of all is kept."""
    done = Trajectories([starts], [], [])
    for _ in range(max(LENGTHS)):
        state, action = done.states[-1], policy.mode(done.states[-1])
        done.nudges.append(torch.zeros_like(action, requires_grad=True))
        action = action + done.nudges[-1]
        done.states.append(step(state, action))
        done.rewards.append(reward(state, action, done.states[-1]))
    return done


def log_norms(done: Trajectories, policy: Policy) -> dict[str, Any]:
    """Means over B of the logarithms, for each of LENGTHS; how they grow; and the weight of early actions.

    Of each trajectory by itself: gradients of starts that lie opposite would cancel in a mean.
    """
    of_state = [_mean_log(_first_action_norm(done.states[length], done.nudges[0])) for length in LENGTHS]
    of_return = [_mean_log(_parameter_norm(torch.stack(done.rewards[:length]).sum(0), policy)) for length in LENGTHS]
    short, doubled, long = (of_return[LENGTHS.index(length)] for length in DOUBLED)
    horizon = len(done.rewards)
    by_action = torch.autograd.grad(torch.stack(done.rewards).sum(), [done.nudges[0], done.nudges[horizon // 2]])
    first, middle = (_mean_log(gradient.norm(dim=-1)) for gradient in by_action)
    return {
        "log_norms": of_state,
        "rate": float(np.polyfit(LENGTHS, of_state, 1)[0]),
        "log_return_norms": of_return,
        "exponent": float((doubled - short) / np.log(2)),
        "later_exponent": float((long - doubled) / np.log(2)),
        "early_share": first - middle - float(np.log(horizon / (horizon - horizon // 2))),
    }


def _first_action_norm(state: Tensor, nudge: Tensor) -> Tensor:
    """‖∂s / ∂a_0‖ (Frobenius) for each start [B]."""
    rows = [torch.autograd.grad(state[:, d].sum(), nudge, retain_graph=True)[0] for d in range(state.shape[1])]
    return torch.stack(rows).square().sum((0, 2)).sqrt()


def _parameter_norm(returns: Tensor, policy: Policy) -> Tensor:
    """‖∂R / ∂φ‖ for each of returns [B]."""
    gradients = torch.autograd.grad(
        returns, list(policy.parameters()), torch.eye(len(returns)), retain_graph=True, is_grads_batched=True
    )
    return torch.cat([gradient.square().flatten(1) for gradient in gradients], dim=1).sum(1).sqrt()


def _mean_log(norms: Tensor) -> float:
    return float(norms.clamp(min=1e-30).log().mean())


def contrasts(results: Results) -> list[Contrast]:
    """Growth in nats a step, differences of exponents, and log ratios of sensitivities."""
    grows, decays = (per_seed(results, env, "rate") for env in (EXPLODING, VANISHING))
    return [
        Contrast(f"growth of ‖∂s_h/∂a_0‖ in {EXPLODING} (log of the norm, per step)", grows),
        Contrast(f"decay of ‖∂s_h/∂a_0‖ in {VANISHING} (log of the norm, per step)", [-rate for rate in decays]),
        *(_rise(results, env, sign) for env, sign in ((EXPLODING, 1), (VANISHING, -1))),
        *(
            Contrast(
                f"{env}: sensitivity of the return to the {more} action over that to the {less} one, each for a reward "
                "that it can move (log ratio)",
                [sign * share for share in per_seed(results, env, "early_share")],
            )
            for env, sign, more, less in (
                (EXPLODING, 1, "first", "middle"),
                (SWINGING, 1, "first", "middle"),
                (VANISHING, -1, "middle", "first"),
            )
        ),
    ]


def _rise(results: Results, env: str, sign: int) -> Contrast:
    before, after = (per_seed(results, env, key) for key in ("exponent", "later_exponent"))
    return Contrast(
        f"{'rise' if sign > 0 else 'fall'} in {env} of the exponent b of ‖∂R_H/∂φ‖ ~ H^b, from {np.mean(before):.2f} "
        f"(H from {DOUBLED[0]} to {DOUBLED[1]}) to {np.mean(after):.2f} ({DOUBLED[1]} to {DOUBLED[2]})",
        difference(after, before) if sign > 0 else difference(before, after),
    )


def figure(results: Results) -> Chart:
    """Norms against length, two lines for each environment: the geometric means over seeds."""
    x = np.array(LENGTHS, dtype=float)
    lines = [
        Line(
            x,
            np.exp(np.mean([measured[key] for measured in by_seed.values()], axis=0)),
            f"{env}: {what}",
            CYCLE[number],
            dashed=key == "log_norms",
        )
        for key, what in (("log_return_norms", "return by policy"), ("log_norms", "state by first action"))
        for number, (env, by_seed) in enumerate(results.items())
    ]
    return Chart(
        "A gradient's way back through time",
        "steps",
        "norm of the gradient",
        lines,
        note="Geometric means over random policies and start states, in the units of each environment. Solid: of the "
        "return over so many steps, by the policy's parameters. Dashed: of the state after them, by the first action. "
        f"The return of {EXPLODING} is −Σ ‖s‖² here, since its own reward has no gradient.",
        log_y=True,
    )


_ARMS: Mapping[str, Mapping[str, Any]] = {env: {"env": env} for env in (EXPLODING, SWINGING, VANISHING)}

STUDY = Study(
    claim="“Similar parameter sensitivity problems as shooting methods … vanishing and exploding gradients. Unlike "
    "LSTM, we can't just choose a simple dynamics, dynamics are chosen by nature”: backpropagated through a policy's "
    "trajectory, a gradient explodes in one environment, where that of the return outgrows a power of the horizon, "
    "and vanishes in another, where it does not; but for that one, the return is more sensitive to early actions than "
    "to later ones, beyond the number of rewards that they move.",
    measure="bayes_mbrl.studies.gradient_norms:measure",
    arms=_ARMS,
    contrasts=contrasts,
    figure=figure,
    minutes=(0.2, 1.0),
    num_seeds=(5, 20),
)
