"""K-fold cross-validation by refits, and the comparison of families of posteriors on the data of a run.

Every refit is cold: started from the posterior of all data it would know what it is asked to predict. Rows are held out
in contiguous blocks, whole episodes where there are enough, since rows of one episode resemble each other; the
standardisation is the training part's own. Axes: N data, n held out, K draws of θ.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.analysis.model_comparison import Comparison, compare_models
from bayes_mbrl.arviz_export import draws_for_diagnosis
from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config, from_mapping
from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.regression import Regression
from bayes_mbrl.registry import POSTERIORS, is_own
from bayes_mbrl.simulation import Fit

NUM_DRAWS = 200
"""K of the predictive mixture; of stored draws at most as many."""

Progress = Callable[[str], None]
Predict = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(rows to learn from, rows held out [n], generator) → log p(y_i | θ_k) of the latter [K, n]."""


@dataclasses.dataclass(frozen=True)
class KFold:
    """log p(y_i | data without the fold of i)."""

    elpd: NDArray[np.float64]
    """[N], in nats; NaN where the fold's fit failed."""
    failures: tuple[str, ...]
    """A line for each fold whose fit failed."""
    seconds: float


def k_fold(predict: Predict, num_data: int, folds: Sequence[NDArray[np.int64]], *, seed: int) -> KFold:
    """elpd_i = log (1/K) Σ_k p(y_i | θ_k), θ_k from the fit without i's fold.

    `folds` are the rows held out in each, as of `model_comparison.contiguous_folds`. A fold whose fit raises
    ValueError, UserError or FloatingPointError is counted in `failures`.
    """
    elpd, failures, started = np.full(num_data, np.nan), [], time.monotonic()
    for number, held_out in enumerate(folds):
        rest = np.setdiff1d(np.arange(num_data), held_out)
        generator = torch.Generator().manual_seed(seed + number)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit warned when the run was made
                log_likelihood = predict(torch.from_numpy(rest), torch.from_numpy(held_out), generator).double()
            if bad := int((~log_likelihood.isfinite()).sum()):
                raise ValueError(f"the log-likelihood of held-out data is NaN or infinite in {bad} numbers")
        except (ValueError, FloatingPointError, UserError) as error:
            failures.append(f"fold {number + 1}: {error}")
            continue
        elpd[held_out] = (torch.logsumexp(log_likelihood, 0) - math.log(len(log_likelihood))).numpy()
    return KFold(elpd, tuple(failures), time.monotonic() - started)


def k_fold_regression(
    model: Regression,
    fit: Fit,
    x: Tensor,
    y: Tensor,
    folds: Sequence[NDArray[np.int64]],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    **settings: Any,
) -> KFold:
    """K-fold of any `fit` on x [N, D], y [N, O], without reinforcement learning; densities in the units of y."""

    def predict(rest: Tensor, held_out: Tensor, generator: torch.Generator) -> Tensor:
        posterior, info = fit(model, x[rest], y[rest], generator=generator, **settings)
        return model.log_likelihood(_theta(posterior, info, num_draws, generator), x[held_out], y[held_out])

    return k_fold(predict, len(x), folds, seed=seed)


def k_fold_of_run(
    builder: Builder, transitions: Transitions, folds: Sequence[NDArray[np.int64]], *, seed: int, progress: Progress
) -> KFold:
    """K-fold of the family that `builder` is configured for, recalibrated if so configured; densities in the
    environment's units.
    """
    done, started = 0, time.monotonic()

    def predict(rest: Tensor, held_out: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal done
        train = transitions[rest]
        posterior, info = builder.fit(train, None, generator=generator)
        theta = _theta(posterior, info, NUM_DRAWS, generator)
        log_likelihood = builder.learned_dynamics(train, posterior).log_likelihood(theta, transitions[held_out])
        done += 1
        seconds = (time.monotonic() - started) / done
        progress(
            f"{builder.config.posterior.name}: fold {done} of {len(folds)}, {seconds:.0f} s each, "
            f"{seconds * (len(folds) - done):.0f} s to go"
        )
        return log_likelihood

    return k_fold(predict, len(transitions), folds, seed=seed)


def family_config(config: Config, family: str) -> Config:
    """The run's configuration with another posterior: the dynamics stays the run's, but for what the run took from its
    own family's recommendation, such as the width of the network; that comes from the new family's.

    Raises UserError for an unknown family.
    """
    if family == config.posterior.name:
        return config
    mapping: dict[str, Any] = {"env": config.env, "seed": config.seed, "posterior": family}
    row = POSTERIORS.find(family) if is_own(family) else POSTERIORS.rows.get(family)
    needed = None if row is None else row.requires.get("dynamics")
    if row is not None and needed in (None, config.dynamics.name):
        own = config.posterior.row.defaults.get("dynamics", {})
        recommended = dict(own) if isinstance(own, Mapping) else {}
        kept = {
            key: value
            for key, value in config.dynamics.settings.items()
            if not (key in recommended and _same(recommended[key], value))
        }
        mapping["dynamics"] = {"name": config.dynamics.name, **kept}
    return from_mapping(mapping)


def compare_families(
    families: Mapping[str, KFold], groups: NDArray[Any] | None
) -> tuple[Comparison | None, tuple[str, ...]]:
    """(the comparison over the data that all families predicted, what is left out: a sentence each)."""
    notes = [
        f"{name}: {len(result.failures)} of the refits failed ({result.failures[0]})"
        for name, result in families.items()
        if result.failures
    ]
    usable = {name: result.elpd for name, result in families.items() if np.isfinite(result.elpd).any()}
    if not usable:
        return None, tuple(notes)
    common = np.asarray(np.isfinite(np.stack(list(usable.values()))).all(axis=0))
    if not common.any():
        return None, (*notes, "no row was predicted by all families")
    if not common.all():
        notes.append(f"compared on the {int(common.sum())} of {len(common)} rows that all of them predicted")
    elpd = {name: values[common] for name, values in usable.items()}
    return compare_models(elpd, None if groups is None else groups[common]), tuple(notes)


def _same(recommended: Any, value: Any) -> bool:
    return bool((tuple(recommended) if isinstance(recommended, list) else recommended) == value)


def _theta(posterior: Posterior, info: Any, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
    record = fit_record(info) if dataclasses.is_dataclass(info) else {}
    return draws_for_diagnosis(posterior, record, generator=generator, num_draws=num_draws, max_stored=num_draws).theta
