"""What a planning step costs, beside other planners, and how it grows.

    .venv/bin/python benchmarks/planning.py
    .venv/bin/pip install -c constraints.txt --no-deps pytorch-mppi pytorch-icem arm-pytorch-utilities \
        pytorch-seed colorednoise                          # rows of peers, if they are to be there

Prints, measured side by side in one process on one thread, the rows of a table taking turns in every round:
1. a whole planning step of our MPPI and iCEM over pytorch-mppi's and pytorch-icem's: same network, as many plans,
   samples of θ, steps and iterations. Aim: at most 1. Theirs get the dynamics as one writes it by hand: all samples of
   θ in one batched product, common noise; they keep one set of samples, ours draw them anew in every iteration.
2. the growth of `evaluate_plans` with candidates, samples of θ, noise draws and horizon: seconds over those of the
   first size, and the exponent of the last doubling. Aim: 1.
3. bf16 for the products of hidden layers: seconds over those of float32, and the error of returns. Aim: at most 1 / 1.6
   where the processor has it (flag avx512_bf16 or amx_bf16), below 1 %.
CPU seconds of this process are compared, which other work on the machine disturbs less than wall time. Against the bare
matrix products: benchmarks/rollout.py.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.icem import ICEM
from bayes_mbrl.planners.mppi import MPPI
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.rollout import evaluate_plans

Run = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a planning problem."""

    name: str
    state_dim: int
    action_dim: int
    hidden: tuple[int, ...]
    num_theta: int
    num_candidates: int
    horizon: int
    num_noise: int = 1
    num_iterations: int = 3


SIZES = (
    Size("small: 50 plans, 5 θ, 20 steps, 2×50", 4, 1, (50, 50), 5, 50, 20),
    Size("Pendulum's default: 100 plans, 10 θ, 20 steps, 2×50", 3, 1, (50, 50), 10, 100, 20),
    Size("wide: 200 plans, 5 θ, 20 steps, 3×200", 17, 1, (200,) * 3, 5, 200, 20),
)


def cost(state: Tensor, action: Tensor) -> Tensor:
    """Of states [..., S] and actions [..., A]: [...]."""
    return state[..., 0].square() + 0.1 * state[..., 1].square() + 0.001 * action[..., 0].square()


class Problem:
    """An untrained network that stays within bounds, and evaluations of plans with it."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(0)
        state, action = self._normal(200, size.state_dim), self._normal(200, size.action_dim)
        change, nothing = 0.1 * self._normal(200, size.state_dim), torch.zeros(200)
        rows = Transitions(state, action, nothing, state + change, nothing.bool(), nothing.long())
        self.dynamics = NetworkDynamics.from_data(rows, hidden=size.hidden)
        self.posterior = DrawsPosterior(self.dynamics.model.initial(size.num_theta, generator=self.generator))
        self.state = state[0]
        self.low, self.high = -torch.ones(size.action_dim), torch.ones(size.action_dim)

    def plans(self) -> Tensor:
        """[C, H, A]"""
        return self._normal(self.size.num_candidates, self.size.horizon, self.size.action_dim).clamp(-1, 1)

    def score(self, plans: Tensor, *, bf16: bool = False, seed: int | None = None) -> Tensor:
        """Scores [C]."""
        generator = self.generator if seed is None else torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return evaluate_plans(
                plans,
                self.state,
                posterior=self.posterior,
                dynamics=self.dynamics,
                reward=lambda state, action, following: -cost(following, action),
                objective=expected_return(),
                num_theta=self.size.num_theta,
                num_noise=self.size.num_noise,
                generator=generator,
                bf16=bf16,
            )

    def planning(self, planner: Planner) -> Run:  # type: ignore[type-arg]
        """A planning step with a warm start."""
        state = planner.shift(search(planner, planner.init(), self.score, generator=self.generator))
        return lambda: search(planner, state, self.score, generator=self.generator)

    def by_hand(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The dynamics as one writes it for another planner: states [K, C, S], actions [C, A] → [K, C, S]."""
        model, inputs, targets = self.dynamics.model, self.dynamics.inputs, self.dynamics.targets
        theta: Theta = self.posterior.draws
        layers = [(theta[f"weight_{n}"], theta[f"bias_{n}"].unsqueeze(1)) for n in range(model.num_layers)]

        def step(states: Tensor, actions: Tensor) -> Tensor:
            x = (torch.cat([states, actions.expand(len(states), -1, -1)], -1) - inputs.mean) / inputs.std
            for number, (weight, bias) in enumerate(layers):
                x = torch.baddbmm(bias, nn.functional.silu(x) if number else x, weight)
            mean, raw = x.chunk(2, -1)
            std = model.min_std + model.max_std * torch.sigmoid(raw - math.log(model.max_std))
            noise = torch.randn(len(states), 1, mean.shape[-1])
            return states + targets.mean + targets.std * (mean + std * noise)

        return step

    def _normal(self, *shape: int) -> Tensor:
        return torch.empty(shape).normal_(generator=self.generator)


def peer_mppi(problem: Problem) -> Run:
    """pytorch-mppi: a command without shift is an iteration; its particles come flat, [K·C, S]."""
    import pytorch_mppi

    size, step = problem.size, problem.by_hand()
    shape = (size.num_theta, size.num_candidates, -1)
    controller = pytorch_mppi.MPPI(
        lambda state, action: step(state.view(shape), action.view(shape)[0]).flatten(0, 1),
        cost,
        size.state_dim,
        0.25 * torch.eye(size.action_dim),
        num_samples=size.num_candidates,
        horizon=size.horizon,
        rollout_samples=size.num_theta,
        u_min=problem.low,
        u_max=problem.high,
    )

    def plan() -> None:
        with torch.no_grad():
            for iteration in range(size.num_iterations):
                controller.command(problem.state, shift_nominal_trajectory=iteration == 0)

    return plan


def peer_icem(problem: Problem) -> Run:
    """pytorch-icem (0.1.0: one action only) knows one state a plan: the samples' states side by side, [C, K·S]."""
    import pytorch_icem

    size, step = problem.size, problem.by_hand()
    states = (-1, size.num_theta, size.state_dim)

    def dynamics(state: Tensor, action: Tensor) -> Tensor:
        return step(state.view(states).transpose(0, 1), action).transpose(0, 1).flatten(1)

    def trajectory_cost(trajectory: Tensor, actions: Tensor) -> Tensor:
        each = trajectory.view(*trajectory.shape[:2], *states[1:])
        return cost(each, actions.unsqueeze(2)).mean(2).sum(1)

    controller = pytorch_icem.iCEM(
        dynamics,
        trajectory_cost,
        size.num_theta * size.state_dim,
        size.action_dim,
        sigma=torch.tensor([0.5]),
        num_samples=size.num_candidates,
        num_elites=size.num_candidates // 10,
        elites_keep_fraction=0.3,
        horizon=size.horizon,
        warmup_iters=size.num_iterations,
        online_iters=size.num_iterations,
    )
    start = problem.state.repeat(size.num_theta)

    def plan() -> None:
        with torch.no_grad():
            controller.command(start)

    return plan


def our_mppi(problem: Problem) -> Run:
    """As many plans as the peer."""
    size = problem.size
    return problem.planning(
        MPPI(problem.low, problem.high, size.horizon, size.num_candidates, size.num_iterations, noise_std_fraction=0.25)
    )


def our_icem(problem: Problem) -> Run:
    """As many plans as the peer: kept elites are among them there, and come on top of the new ones here."""
    size, elites = problem.size, problem.size.num_candidates // 10
    new = size.num_candidates - math.ceil(0.3 * elites)
    return problem.planning(
        ICEM(problem.low, problem.high, size.horizon, new, elites, size.num_iterations, decay=1.0, kept_share=0.3)
    )


PAIRS = (("MPPI", our_mppi, "pytorch-mppi", peer_mppi), ("iCEM", our_icem, "pytorch-icem", peer_icem))


def seconds(rows: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each row, in turn."""
    for run in rows.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, run in rows.items():
            started = time.process_time()
            run()
            taken[name].append(time.process_time() - started)
    return taken


def ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """Median over rounds of first / second, and the quartiles."""
    quartiles = statistics.quantiles([a / b for a, b in zip(first, second, strict=True)], n=4)
    return f"{quartiles[1]:.2f} ({quartiles[0]:.2f} to {quartiles[2]:.2f})"


def against_peers(rounds: int) -> None:
    """Table 1."""
    print("| a planning step of 3 iterations | ours (CPU-ms) | peer | peer's (CPU-ms) | ours / peer's |")
    print("|---|---|---|---|---|")
    for size in SIZES:
        for name, ours, peer_name, peer in PAIRS:
            problem = Problem(size)
            try:
                rows = {"ours": ours(problem), "peer": peer(problem)}
            except ModuleNotFoundError as error:
                print(f"| {size.name} | | {peer_name} | not installed: {error.name} | |")
                continue
            taken = seconds(rows, rounds)
            medians = [1e3 * statistics.median(taken[row]) for row in ("ours", "peer")]
            print(
                f"| {name}, {size.name} | {medians[0]:.1f} | {peer_name} | {medians[1]:.1f} "
                f"| {ratio(taken['ours'], taken['peer'])} |",
                flush=True,
            )


def growth(rounds: int) -> None:
    """Table 2."""
    base = Size("", 17, 6, (200, 200), 5, 100, 10, num_noise=2)
    print("\n| evaluate_plans, 2×200, S 17, A 6 | sizes | seconds over the first | exponent of the last doubling |")
    print("|---|---|---|---|")
    for axis, field in (("C", "num_candidates"), ("K", "num_theta"), ("M", "num_noise"), ("H", "horizon")):
        sizes = [getattr(base, field) * factor for factor in (1, 2, 4, 8)]
        rows = {}
        for size in sizes:
            problem = Problem(dataclasses.replace(base, **{field: size}))
            rows[str(size)] = functools.partial(problem.score, problem.plans())
        taken = {name: min(times) for name, times in seconds(rows, rounds).items()}
        times = [taken[str(size)] / taken[str(sizes[0])] for size in sizes]
        listed = ", ".join(f"{t:.2f}" for t in times)
        print(
            f"| {axis} | {', '.join(map(str, sizes))} | {listed} | {math.log2(times[-1] / times[-2]):.2f} |", flush=True
        )


def bf16(rounds: int) -> None:
    """Table 3."""
    flags = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    has = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    print(f"\nbf16: this processor has {', '.join(has) or 'no instructions for it, so that it is slower'}")
    print("| evaluate_plans | bf16 / float32 | speed-up | mean error of a return |\n|---|---|---|---|")
    for hidden in ((50, 50), (200,) * 4, (500,) * 3):
        problem = Problem(Size("", 17, 6, hidden, 5, 200, 10, num_noise=2))
        plans = problem.plans()
        scores = {name: functools.partial(problem.score, plans, bf16=name == "bf16") for name in ("float32", "bf16")}
        taken = seconds(scores, rounds)
        full, half = (score(seed=1) for score in scores.values())
        error = float((half - full).abs().mean() / full.abs().mean())
        speed = min(taken["float32"]) / min(taken["bf16"])
        print(
            f"| {len(hidden)}×{hidden[0]} | {ratio(taken['bf16'], taken['float32'])} | {speed:.2f} (fastest rounds) "
            f"| {100 * error:.2f} % |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--parts", nargs="+", default=["peers", "growth", "bf16"], choices=["peers", "growth", "bf16"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the peers have no generators
    parts = {"peers": against_peers, "growth": growth, "bf16": bf16}
    for name in given.parts:
        parts[name](given.rounds)


if __name__ == "__main__":
    main()
