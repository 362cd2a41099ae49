"""How far every family's predictive distribution is from the exact posterior's, as NUTS draws it, and what it costs.

    .venv/bin/python benchmarks/against_nuts.py [--problems pendulum sine friedman] [--families mean-field ...]
        [--seeds 3] [--output runs/against_nuts.jsonl]

Three small problems: Pendulum-v1, 200 transitions of random actions (16 SiLU units, noise of at least a tenth of the
standard deviation of Δs); sin(3x) with a gap in its data (20 tanh units); Friedman's first function (1991, eq. 61) with
100 data in 5 dimensions (12 tanh units). Learned homoscedastic noise, float64, priors of scale 1 (of 2 for the sine,
whose best fit under 1 is nearly flat). A seed is another data set and other draws throughout. The row "nuts again" is
a second, independent run: what its distances are, no family can be expected to beat.

* W2: the 2-Wasserstein distance between the predictive distributions of y at a point, by 1,000 sorted draws, in units
  of the standard deviation of NUTS there; the mean over points and outputs.
* epistemic: the std of E[y | θ] over that of NUTS; the geometric mean over points and outputs. 1 is right.
* joint log-loss: −log (1/K) Σ_k Π_i p(y_i | x_i, θ_k) of batches of ten test data, in nats a datum (Osband et al.
  2022): a family that is uncertain at each point but wrong about which errors go together loses here.
* CPU-seconds of the fit; for NUTS with compilation.
Means over seeds ± standard errors. With `--output` every result is a line of JSON; a run that starts again goes on.
"""

import argparse
import dataclasses
import itertools
import json
import math
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import RandomAgent
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood
from bayes_mbrl.dynamics.network import NetworkDynamics, identity
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.registry import POSTERIORS

NUM_THETA, NUM_TEST, JOINT = 1000, 100, 10
NUTS = ("nuts", {"num_chains": 4, "num_warmup": 300, "num_draws": 250})

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "nuts again": NUTS,
    "sghmc, from the mean field": ("sghmc", {"warm_start": "mean-field"}),
    "low rank": ("low-rank", {"num_steps": 5000}),
    "mean-field": ("mean-field", {"num_steps": 5000}),
    "laplace, last layer": ("laplace", {}),
    "laplace, all": ("laplace", {"subset": "all"}),
    "ensemble of 5": ("ensemble", {"resample": False}),
    "ensemble of 5, bootstrap": ("ensemble", {}),
    "ensemble of 20, randomised priors": (
        "ensemble",
        {"num_members": 20, "resample": False, "randomised_prior": True},
    ),
    "concrete-dropout": ("concrete-dropout", {"num_steps": 5000}),
    "mc-dropout": ("mc-dropout", {}),
    "point": ("point", {"prior_weight": 1.0}),
}
"""Row → the posterior's name in the registry, and the settings of its `fit`, which else has its own defaults.

Chains start from a mean field: NUTS by itself, and SGHMC too, so that both describe the same mode.
"""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model, its data, and data to test on."""

    model: BayesianNetwork
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def pendulum(seed: int, generator: torch.Generator) -> Problem:
    """One random episode of Pendulum-v1, and half of the next one to test on."""
    with Environment("Pendulum-v1") as environment:
        policy = RandomAgent(environment.low, environment.high)
        data, test = (
            run_episode(environment, policy, number=n, seed=1000 * seed + n, generator=generator).transitions
            for n in range(2)
        )
        dynamics = NetworkDynamics.from_data(data, features=environment.spec.features or identity)
    x, y = dynamics.regression_data(data)
    x_test, y_test = (part[:: len(test) // NUM_TEST].double() for part in dynamics.regression_data(test))
    return Problem(_network(x.shape[1], y.shape[1], 16, "silu", min_std=0.1), x.double(), y.double(), x_test, y_test)


def sine(seed: int, generator: torch.Generator) -> Problem:
    """y = sin 3x + 0.1 ε at 20 x on either side of a gap; tested over the gap and a little beyond."""

    def observe(x: Tensor) -> Tensor:
        return torch.sin(3 * x) + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    side = torch.rand(40, 1, generator=generator, dtype=torch.float64) * 0.5 + 0.75
    x = torch.cat([side[:20], -side[20:]])
    x_test = torch.linspace(-1.5, 1.5, NUM_TEST, dtype=torch.float64)[:, None]
    return Problem(_network(1, 1, 20, "tanh", prior_scale=2.0), x, observe(x), x_test, observe(x_test))


def friedman(seed: int, generator: torch.Generator) -> Problem:
    """y = 10 sin(π x₁ x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + ε, standardised."""
    x = torch.rand(100 + NUM_TEST, 5, generator=generator, dtype=torch.float64)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y + torch.randn(y.shape, generator=generator, dtype=torch.float64))[:, None]
    inputs, targets = Standardiser.fitted(x[:100]), Standardiser.fitted(y[:100])
    x, y = inputs(x), targets(y)
    return Problem(_network(5, 1, 12, "tanh"), x[:100], y[:100], x[100:], y[100:])


PROBLEMS = {"pendulum": pendulum, "sine": sine, "friedman": friedman}


def _network(inputs: int, outputs: int, units: int, activation: Any, **settings: Any) -> BayesianNetwork:
    return BayesianNetwork(
        inputs,
        outputs,
        hidden=(units,),
        activation=activation,
        noise="homoscedastic",
        dtype=torch.float64,
        **settings,
    )


def fitted(name: str, settings: Mapping[str, Any], problem: Problem, generator: torch.Generator) -> tuple[Theta, float]:
    """(samples of θ, CPU-seconds of the fit)."""
    settings = dict(settings)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        if first := settings.get("warm_start"):
            settings["warm_start"], _ = _fit(first, {}, problem, generator)
        posterior, _ = _fit(name, settings, problem, generator)
    return posterior.sample(NUM_THETA, generator=generator), time.process_time() - start


def _fit(name: str, settings: Mapping[str, Any], problem: Problem, generator: torch.Generator) -> Any:
    return POSTERIORS.rows[name].load()(problem.model, problem.x, problem.y, generator=generator, **settings)


def scores(problem: Problem, theta: Theta, reference: Theta, generator: torch.Generator) -> dict[str, float]:
    """The three numbers of the table."""
    model, draws, means = problem.model, [], []
    for samples in (theta, reference):
        draws.append(model.sample(samples, problem.x_test, generator=generator).sort(0).values)
        means.append(model.predict(samples, problem.x_test)[0].std(0))
    distance = (draws[0] - draws[1]).square().mean(0).sqrt() / draws[1].std(0)
    log_likelihood = model.log_likelihood(theta, problem.x_test, problem.y_test)
    order = torch.randperm(len(problem.x_test), generator=generator)[: len(problem.x_test) // JOINT * JOINT]
    joint = log_likelihood[:, order].unflatten(1, (-1, JOINT)).sum(-1)
    return {
        "w2": float(distance.mean()),
        "epistemic": float((means[0].clamp(min=1e-12) / means[1]).log().mean().exp()),
        "joint_log_loss": float(-mixture_log_likelihood(joint).mean() / JOINT),
    }


def results(
    problem_name: str, seed: int, families: Sequence[str], known: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A result for each family that `known` has none of; NUTS is drawn first, as the reference of all."""
    done = {line["family"] for line in known if (line["problem"], line["seed"]) == (problem_name, seed)}
    missing = [name for name in families if name not in done]
    if not missing:
        return
    problem = PROBLEMS[problem_name](seed, torch.Generator().manual_seed(seed))
    reference, _ = fitted(*NUTS, problem, torch.Generator().manual_seed(10_000 + seed))
    for name in missing:
        generator = torch.Generator().manual_seed(seed)
        theta, seconds = fitted(*FAMILIES[name], problem, generator)
        found = scores(problem, theta, reference, generator)
        yield {"problem": problem_name, "seed": seed, "family": name, **found, "seconds": seconds}


def table(lines: Sequence[Mapping[str, Any]], problem: str) -> str:
    """Markdown: a row a family."""
    rows = [[problem, "W2 [std]", "epistemic", "joint log-loss [nats]", "CPU-seconds", "seeds"], ["---"] * 6]
    for family in dict.fromkeys(line["family"] for line in lines):
        own = [line for line in lines if (line["family"], line["problem"]) == (family, problem)]
        if own:
            values = [_spread([line[score] for line in own]) for score in ("w2", "epistemic", "joint_log_loss")]
            seconds = f"{np.mean([line['seconds'] for line in own]):.0f}"
            rows.append([f"`{family}`", *values, seconds, str(len(own))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    error = f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return (mean + error).replace("-", "−")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then print a table for each problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=3, help="the first so many")
    parser.add_argument("--output", type=pathlib.Path, help="lines of JSON; what is in it is not computed again")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        if given.output.exists():  # a last line that was cut off is left out
            found = [json.loads(line) for line in given.output.read_text(encoding="utf-8").split("\n")[:-1]]
            given.output.write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    for seed, problem in itertools.product(range(given.seeds), given.problems):
        for result in results(problem, seed, given.families, found):
            found.append(result)
            print(json.dumps(result), flush=True)
            if given.output is not None:
                with given.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    shown = sorted(found, key=lambda line: list(FAMILIES).index(line["family"]))
    for problem in given.problems:
        print("\n" + table([line for line in shown if line["seed"] < given.seeds], problem))


if __name__ == "__main__":
    main()
