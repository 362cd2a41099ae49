"""Study 9: what becomes of a gradient on its way back through a trajectory.

A policy of random weights acts in the true dynamics of three environments. How much the state after h steps depends on
the first action, ‖∂s_h / ∂a_0‖, with all that the policy answers on the way, is a product of h Jacobians: nature chose
their size. Also, how much more the return over H steps depends on the first action than on the last one.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import CYCLE, Chart, Line
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.policies import Policy, make_policy
from bayes_mbrl.study import Contrast, Results, Study, per_seed

LENGTHS = (1, 2, 3, 5, 7, 10, 14, 20, 28, 40)
EXPLODING, VANISHING = "ContinuousCartPole-v0", "LinearGaussian-v0"


def measure(folder: pathlib.Path, *, env: str, seed: int, quick: bool) -> dict[str, Any]:
    """Norms for one random policy: the mean of their logarithms over start states, which the environment draws."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    num_starts = 20 if quick else 100
    with Environment(env) as environment:
        starts = torch.stack([environment.reset(seed=1000 * seed + i) for i in range(num_starts)])
        low, high = environment.low, environment.high
    policy = make_policy("deterministic", starts.shape[1], low, high, hidden=(32,), generator=generator)
    states, nudges = _trajectory(policy, starts, KNOWN_STEPS[env], max(LENGTHS))
    logs = [float(_norm_of_first_action(states[length], nudges[0]).log().mean()) for length in LENGTHS]
    gradients = torch.autograd.grad(torch.stack(states).square().sum(), nudges)
    first, last = (gradient.norm(dim=-1) for gradient in (gradients[0], gradients[-1]))
    return {
        "log_norms": logs,
        "rate": float(np.polyfit(LENGTHS, logs, 1)[0]),
        "early_over_late": float((first.clamp(min=1e-12) / last.clamp(min=1e-12)).log().mean()),
    }


def _trajectory(
    policy: Policy, starts: Tensor, step: Callable[[Tensor, Tensor], Tensor], length: int
) -> tuple[list[Tensor], list[Tensor]]:
    """States s_0 … s_H [B, S], and what was added to each action (nothing) [B, A]."""
    states, nudges = [starts], list[Tensor]()
    for _ in range(length):
        action = policy.mode(states[-1])
        nudges.append(torch.zeros_like(action, requires_grad=True))
        states.append(step(states[-1], action + nudges[-1]))
    return states, nudges


def _norm_of_first_action(state: Tensor, nudge: Tensor) -> Tensor:
    """‖∂s / ∂a_0‖ (Frobenius) for each start [B]."""
    rows = [torch.autograd.grad(state[:, d].sum(), nudge, retain_graph=True)[0] for d in range(state.shape[1])]
    return torch.stack(rows).square().sum((0, 2)).sqrt().clamp(min=1e-30)


def contrasts(results: Results) -> list[Contrast]:
    """Growth rates, in nats a step, and the log ratio of sensitivities."""
    return [
        Contrast(
            f"growth of the gradient in {EXPLODING} (log of its norm, per step)", per_seed(results, EXPLODING, "rate")
        ),
        Contrast(
            f"decay of the gradient in {VANISHING} (log of its norm, per step)",
            [-rate for rate in per_seed(results, VANISHING, "rate")],
        ),
        Contrast(
            f"sensitivity of Σ ‖s‖² in {EXPLODING} to the first action over that to the last (log ratio)",
            per_seed(results, EXPLODING, "early_over_late"),
        ),
    ]


def figure(results: Results) -> Chart:
    """Norm against length, a line for each environment: the geometric mean over seeds."""
    x = np.array(LENGTHS, dtype=float)
    lines = [
        Line(x, np.exp(np.mean([measured["log_norms"] for measured in by_seed.values()], axis=0)), env, CYCLE[number])
        for number, (env, by_seed) in enumerate(results.items())
    ]
    return Chart(
        "A gradient's way back through time",
        "steps between the action and the state",
        "norm of ∂state / ∂first action",
        lines,
        note="Geometric means over random policies and start states, in the units of each environment.",
        log_y=True,
    )


_ARMS: Mapping[str, Mapping[str, Any]] = {env: {"env": env} for env in (EXPLODING, "Pendulum-v1", VANISHING)}

STUDY = Study(
    claim="“Similar parameter sensitivity problems as shooting methods … vanishing and exploding gradients. Unlike "
    "LSTM, we can't just choose a simple dynamics, dynamics are chosen by nature”: backpropagated through a policy's "
    "trajectory, a gradient explodes in one environment and vanishes in another, and early actions weigh most.",
    measure="bayes_mbrl.studies.gradient_norms:measure",
    arms=_ARMS,
    contrasts=contrasts,
    figure=figure,
    minutes=(0.5, 1.5),
    num_seeds=(5, 20),
)
