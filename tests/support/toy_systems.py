"""Physics of the toy environments: what a user would write for an environment of their own."""

import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.dynamics.physics import System
from bayes_mbrl.inference.parametric import lognormal_prior


def _drift(p, state, action, lib):  # type: ignore[no-untyped-def]
    (a,) = action
    return [p["decay"] * state[0] + p["push"] * a, p["decay"] * state[1] - 0.1 * a]


def _minus_norm(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return -state.square().sum(-1)


_PRIORS = {"decay": lognormal_prior(0.7, 1.5), "push": Normal(torch.tensor(0.0), torch.tensor(0.5))}

DRIFT = System(_drift, _PRIORS, units={"push": "N"}, truth={"decay": 0.9, "push": 0.3}, reward=_minus_norm)
WITHOUT_REWARD = System(_drift, _PRIORS)
LINEAR = System(lambda p, s, a, lib: [s[0] + p["gain"] * a[0], p["gain"] * s[1], s[2]], {"gain": _PRIORS["push"]})
TOO_FEW = System(lambda p, s, a, lib: [s[0]], {"gain": _PRIORS["push"]})
