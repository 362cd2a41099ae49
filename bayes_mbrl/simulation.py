"""Simulation-based calibration of any `fit`: data from the prior, a fit to each, the ranks of the truth in it.

Source: Talts et al. (2018), algorithm 1; what the ranks say: analysis/sbc.py.
Axes: R replicates, L draws of each fit, N data, N' points at which functions are looked at, O outputs.
"""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.sbc import Calibration, calibrate
from bayes_mbrl.arviz_export import draws_for_diagnosis
from bayes_mbrl.data import evenly_spaced
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.inference.base import Posterior, Theta, log_prior, require, sample_prior
from bayes_mbrl.inference.regression import Regression

Fit = Callable[..., tuple[Posterior, Any]]
"""(model, x, y, *, generator, **settings) → (posterior, info)."""


@dataclasses.dataclass(frozen=True)
class SimulationResult:
    """Ranks of function values, of their noise where it is learned, and of densities that depend on the data."""

    functions: Calibration
    """f(x*) at each of the N' points and O outputs."""
    noise: Calibration | None
    """σ(x*) likewise; None where it is known."""
    densities: Calibration
    """log p(y | x, θ) of the data that were fitted, and log p(θ): who ignores the data fails the first."""
    failures: tuple[str, ...]
    """What went wrong in the replicates that are not counted, a line each."""
    seconds: float
    """For all fits."""

    @property
    def groups(self) -> dict[str, Calibration]:
        """By name, for `sbc.ecdf_chart`."""
        named = {"f(x*)": self.functions, "σ(x*)": self.noise, "log densities": self.densities}
        return {name: group for name, group in named.items() if group is not None}


def simulate(
    model: Regression,
    fit: Fit,
    x: Tensor,
    *,
    x_test: Tensor | None = None,
    num_replicates: int = 100,
    num_draws: int = 50,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda number, seconds: None,
    **settings: Any,
) -> SimulationResult:
    """θ* ~ p(θ), y ~ p(y | x, θ*), `fit(model, x, y, generator=..., **settings)`, R times over, each from nothing.

    x [N, D] are the inputs of the data, x_test [N', D] the points of the ranks, by default 5 of x and 5 about as far
    out again. L = num_draws: of a chain as many as that, evenly spaced; of a small ensemble all members, so that L is
    their number. A fit that raises ValueError or diverges is counted in `failures`, and so is one whose function values
    are not finite; warnings of fits are not shown. R fits are R times the cost of one: `progress` is called after each
    with its number and the seconds so far.
    Raises ValueError unless num_replicates, num_draws >= 1, for a prior that is not normal, and when all fits fail.
    """
    require(
        (num_replicates >= 1, f"need num_replicates >= 1, got {num_replicates}"),
        (num_draws >= 1, f"need num_draws >= 1, got {num_draws}"),
    )
    points = _test_points(x) if x_test is None else x_test
    truths: list[Theta] = []
    draws: list[Theta] = []
    failures: list[str] = []
    started = time.monotonic()
    for number in range(num_replicates):
        truth = sample_prior(model, 1, generator=generator)
        y = model.sample(truth, x, generator=generator)[0]
        seed = int(torch.randint(2**62, (), generator=generator))  # a fit that fails half-way shifts no other
        try:
            drawn = _quantities(model, _fitted(model, fit, x, y, seed, num_draws, settings), points, x, y)
        except (ValueError, FloatingPointError) as error:
            failures.append(f"replicate {number}: {error}")
        else:
            truths.append(_quantities(model, truth, points, x, y))
            draws.append(drawn)
        progress(number + 1, time.monotonic() - started)
    require((bool(draws), f"all {num_replicates} fits failed, the first one: {''.join(failures[:1])}"))
    if (shortest := min(len(one["f"]) for one in draws)) < max(len(one["f"]) for one in draws):
        draws = [{name: values[:shortest] for name, values in one.items()} for one in draws]

    def group(name: str, names: list[str], kept: Tensor | None = None) -> Calibration:
        kept = torch.ones(len(names), dtype=torch.bool) if kept is None else kept
        return calibrate(
            np.stack([one[name][0, kept].numpy() for one in truths]),
            np.stack([one[name][:, kept].numpy() for one in draws]),
            names=[name for name, is_kept in zip(names, kept.tolist(), strict=True) if is_kept],
            num_failed=len(failures),
            generator=generator,
        )

    at = [
        f"(x*_{i})" + (f"[{o}]" if model.output_dim > 1 else "")
        for i in range(len(points))
        for o in range(model.output_dim)
    ]
    sigma = torch.cat([one["sigma"] for one in (*truths, *draws)])
    varies = (sigma != sigma[0]).any(0)  # that of a binary output does not
    return SimulationResult(
        functions=group("f", [f"f{where}" for where in at]),
        noise=group("sigma", [f"σ{where}" for where in at], varies) if bool(varies.any()) else None,
        densities=group("densities", ["log likelihood", "log prior"]),
        failures=tuple(failures),
        seconds=time.monotonic() - started,
    )  # fmt: skip


def _fitted(
    model: Regression, fit: Fit, x: Tensor, y: Tensor, seed: int, num_draws: int, settings: dict[str, Any]
) -> Theta:
    """L draws of one fit; those of chains in random order, since replicates are cut to one length."""
    generator = torch.Generator(x.device).manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior, info = fit(model, x, y, generator=generator, **settings)
    record = fit_record(info) if dataclasses.is_dataclass(info) else {}
    return draws_for_diagnosis(posterior, record, generator=generator, num_draws=num_draws, max_stored=num_draws).theta


def _quantities(model: Regression, theta: Theta, points: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """{name: [L, Q]} in float64. Raises ValueError where one is not finite."""
    with torch.no_grad():
        mean, std = model.predict(theta, points)
        likelihood = model.log_likelihood(theta, x, y).double().sum(-1)
        densities = torch.stack([likelihood, log_prior(model.prior(), theta).double()], -1)
    result = {"f": mean.double().flatten(1), "sigma": std.double().flatten(1), "densities": densities}
    bad = sum(int((~values.isfinite()).sum()) for values in result.values())
    require((bad == 0, f"{bad} function values or densities are NaN or infinite"))
    return result


def _test_points(x: Tensor) -> Tensor:
    """Five of x and five as far again from its mean."""
    rows = evenly_spaced(len(x), 5)
    return torch.cat([x[rows], x.mean(0) + 2 * (x[rows] - x.mean(0))])
