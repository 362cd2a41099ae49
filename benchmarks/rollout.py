"""What planning costs beside the matrix products it consists of.

    .venv/bin/python benchmarks/rollout.py

Prints, measured side by side in one process on one thread: the time of `evaluate_plans` over the time of the bare
matrix products of the same sizes (PETS: 5 networks of 4×200, 500 plans, 20 particles, horizon 30; aim: at most 1.3),
and the peak memory that it adds for horizons 10, 30 and 100 (aim: flat).
"""

import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.rollout import evaluate_plans

NUM_NETWORKS, HIDDEN, NUM_PLANS, NUM_PARTICLES, HORIZON = 5, (200,) * 4, 500, 20, 30
STATE_DIM, ACTION_DIM = 17, 6  # HalfCheetah's
REPETITIONS = 7


def problem(horizon: int) -> Callable[[], Tensor]:
    """A call of `evaluate_plans` of PETS' size, with random weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.empty(shape).normal_(generator=generator)

    n = 100
    data = Transitions(
        normal(n, STATE_DIM),
        normal(n, ACTION_DIM),
        normal(n),
        normal(n, STATE_DIM),
        torch.zeros(n).bool(),
        torch.zeros(n).long(),
    )
    dynamics = NetworkDynamics.from_data(data, hidden=HIDDEN)
    posterior = DrawsPosterior(dynamics.model.initial(NUM_NETWORKS, generator=generator))
    plans = normal(NUM_PLANS, horizon, ACTION_DIM).clamp(-1, 1)

    def evaluate() -> Tensor:
        with torch.no_grad():
            return evaluate_plans(
                plans,
                data.state[0],
                posterior=posterior,
                dynamics=dynamics,
                reward=lambda state, action, next_state: next_state[..., 0],
                objective=expected_return(),
                num_theta=NUM_NETWORKS,
                num_noise=NUM_PARTICLES // NUM_NETWORKS,
                generator=generator,
            )

    return evaluate


def bare_products(horizon: int, rows: int) -> Callable[[], None]:
    """The matrix products of the same sizes and nothing else, `rows` rows of each network at a time."""
    generator = torch.Generator().manual_seed(0)
    sizes = [STATE_DIM + ACTION_DIM, *HIDDEN, 2 * STATE_DIM]
    total_rows = NUM_PLANS * NUM_PARTICLES // NUM_NETWORKS
    inputs = [torch.empty(NUM_NETWORKS, rows, size).normal_(generator=generator) for size in sizes]
    weights = [torch.empty(NUM_NETWORKS, a, b).normal_(generator=generator) for a, b in itertools.pairwise(sizes)]

    def multiply() -> None:
        for _ in range(total_rows // rows * horizon):
            for x, weight, out in zip(inputs, weights, inputs[1:], strict=False):
                torch.bmm(x, weight, out=out)

    return multiply


def peak_megabytes(horizon: int) -> float:
    """Peak memory of a fresh process that evaluates plans, the libraries it imports included."""
    torch.set_num_threads(1)
    problem(horizon)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    torch.set_num_threads(1)
    rows = NUM_PLANS * NUM_PARTICLES // NUM_NETWORKS
    contenders = {"evaluate_plans": problem(HORIZON)}
    contenders |= {
        f"bare products, {r} rows at a time": bare_products(HORIZON, r) for r in (rows, rows // 4, rows // 8)
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPETITIONS):  # in turn, so that all meet the same load of the machine
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    fastest = min(statistics.median(times) for name, times in seconds.items() if name.startswith("bare"))
    print(f"{NUM_NETWORKS} networks {HIDDEN}, {NUM_PLANS} plans, {NUM_PARTICLES} particles, H {HORIZON}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:34s} {1e3 * median:8.0f} ms   {median / fastest:5.2f} x the fastest bare products")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for horizon, peak in zip((10, 30, 100), pool.map(peak_megabytes, (10, 30, 100), chunksize=1), strict=True):
            print(f"H {horizon:3d}: peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
