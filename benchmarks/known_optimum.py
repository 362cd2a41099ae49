"""How far from the optimum every planner ends on two linear-quadratic problems, whose optimum is known.

    .venv/bin/python benchmarks/known_optimum.py [--seeds 2]

For the defaults of the classes, which search one plan thoroughly, and for those of `bayes-mbrl run`, which are made for
a warm start from step to step: one search from nothing, and 60 steps of control with a warm start, held against the
optimal controller of the same horizon. Excess costs in per cent, means over seeds ± standard errors; no bound binds.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.config import resolve
from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.ilqr import ILQR
from bayes_mbrl.registry import PLANNERS

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "support"))
from linear_quadratic import linear_quadratic, riccati, simulated_cost

SYSTEMS = ("double integrator", "coupled oscillators")
NUM_STEPS = 60
Cost = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Control:
    """A planner on one of the problems."""

    planner: Any
    system: Cost
    generator: torch.Generator

    def plan(self, state: Any, start: Tensor) -> Any:
        """The planner's state after a search from `state` on."""
        a, b, q, r, _ = self.system
        if isinstance(self.planner, ILQR):
            found, _ = self.planner.solve(
                state, start, step=lambda s, u: s @ a.T + u @ b.T, generator=self.generator,
                reward=lambda s, u, n: -((n @ q) * n).sum(-1) - ((u @ r) * u).sum(-1),
            )  # fmt: skip
            return found
        with torch.set_grad_enabled(self.planner.needs_gradient):
            return search(
                self.planner, state, lambda plans: -simulated_cost(plans, a, b, q, r, start), generator=self.generator
            )

    def cost(self, policy: Callable[[Tensor], Tensor]) -> float:
        """Of `NUM_STEPS` steps."""
        a, b, q, r, state = self.system
        total = 0.0
        for _ in range(NUM_STEPS):
            action = policy(state)
            state = a @ state + b @ action
            total += float(state @ q @ state + action @ r @ action)
        return total


def excess(name: str, settings: Mapping[str, Any], system: Cost, seed: int) -> tuple[float, float]:
    """(of one search from nothing, of control with a warm start), in per cent of the optimum."""
    horizon = settings.get("horizon", 25)
    least, best = riccati(*system, horizon=horizon)
    bound = 1.5 * best.abs().amax(dim=0)
    planner = PLANNERS.rows[name].load()(low=-1.4 * bound, high=bound, **settings)
    control = Control(planner, system, torch.Generator().manual_seed(seed))
    plan = control.plan(planner.init(), system[-1]).plan
    warm = [planner.init()]

    def policy(state: Tensor) -> Tensor:
        found = control.plan(warm[0], state)
        warm[0] = planner.shift(found)
        return found.plan[0]  # type: ignore[no-any-return]

    def optimal(state: Tensor) -> Tensor:
        return riccati(*system[:4], state, horizon=horizon)[1][0]

    searched = float(simulated_cost(plan[None], *system)) / least
    return 100 * (searched - 1), 100 * (control.cost(policy) / control.cost(optimal) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| planner | problem | class, one search | run, one search | run, control |\n|---|---|---|---|---|")
    for name in (name for name, row in PLANNERS.rows.items() if row.target != row.discrete):
        settings = resolve([f"planner={name}"]).planner.settings
        for system in SYSTEMS:
            problem = linear_quadratic(system)
            thorough = [_one_search(name, problem, seed) for seed in range(given.seeds)]
            quick = [excess(name, settings, problem, seed) for seed in range(given.seeds)]
            cells = [thorough, [q[0] for q in quick], [q[1] for q in quick]]
            print(f"| `{name}` | {system} | " + " | ".join(map(_spread, cells)) + " |", flush=True)


def _one_search(name: str, system: Cost, seed: int) -> float:
    least, best = riccati(*system, horizon=25)
    bound = 1.5 * best.abs().amax(dim=0)
    planner = PLANNERS.rows[name].load()(low=-1.4 * bound, high=bound)
    control = Control(planner, system, torch.Generator().manual_seed(seed))
    return 100 * (float(simulated_cost(control.plan(planner.init(), system[-1]).plan[None], *system)) / least - 1)


def _spread(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{abs(statistics.mean(values)):.2f} ± {error:.2f}"


if __name__ == "__main__":
    main()
