"""A pendulum written from physics, observed as (cos θ, sin θ, θ̇): what is unknown of it, and what motion can tell.

A rod of mass m and length l turns about one end, inertia I = m l² / 3; θ = 0 is upright. A motor turns an action u
into the torque gain · u, friction brakes by friction · θ̇:

    θ̈ = (3 g / 2 l) sin θ + (gain / I) u − (friction / I) θ̇.

**What the data tell.** Motion shows the three coefficients only: l, gain / I and friction / I. Mass, gain and friction
scale together without any change of the motion; a posterior over these three would lie along a ridge, on which
independent normals (mean field) are grossly too sure. So the parameters here are length, gain per inertia, friction
per inertia, which the data identify one by one, and the mass, of which the posterior is the prior. Gain and friction in
their own units are derived: as uncertain as the mass is, and shown so.

Source: gymnasium 1.4, `envs/classic_control/pendulum.py`: semi-implicit Euler with dt 0.05 s, torque clipped to
±2 N m, speed to ±8 rad/s, g 10 m/s²; it has m = l = gain = 1, friction = 0.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.dynamics.physics import System
from bayes_mbrl.inference.parametric import lognormal_prior

GRAVITY, TIME_STEP = 10.0, 0.05
"""m/s² and s."""
MAX_ACTION, MAX_SPEED = 2.0, 8.0
"""N m and rad/s: limits of the environment, known."""


def pendulum_step(p: Mapping[str, Any], state: Sequence[Any], action: Sequence[Any], lib: ModuleType) -> list[Any]:
    """One step; the angle turns by dt · θ̇, which needs no arc tangent."""
    cos, sin, speed = state
    (motor,) = action
    pull = 1.5 * GRAVITY / p["length"] * sin
    push = p["gain_per_inertia"] * lib.clip(motor, -MAX_ACTION, MAX_ACTION)
    acceleration = pull + push - p["friction_per_inertia"] * speed
    speed = lib.clip(speed + TIME_STEP * acceleration, -MAX_SPEED, MAX_SPEED)
    turn_cos, turn_sin = lib.cos(TIME_STEP * speed), lib.sin(TIME_STEP * speed)
    return [cos * turn_cos - sin * turn_sin, sin * turn_cos + cos * turn_sin, speed]


def physical_quantities(p: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gain and friction in their own units."""
    inertia = p["mass"] * p["length"] ** 2 / 3
    return {"gain": p["gain_per_inertia"] * inertia, "friction": p["friction_per_inertia"] * inertia}


PENDULUM = System(
    pendulum_step,
    priors={
        "length": lognormal_prior(0.8, 1.6),
        "gain_per_inertia": lognormal_prior(5.0, 2.5),
        # Normal, though friction is not negative: positive-only priors give no mass to a pendulum without friction,
        # and the logarithm of a friction near 0 has a tail that no normal follows. Values below 0 that remain say
        # how well the data tell it from 0.
        "friction_per_inertia": Normal(torch.tensor(0.0), torch.tensor(0.3)),
        "mass": lognormal_prior(0.8, 1.6),
    },
    units={
        "length": "m",
        "gain_per_inertia": "1/(kg m²)",
        "friction_per_inertia": "1/s",
        "mass": "kg",
        "gain": "N m per unit of action",
        "friction": "N m s",
    },
    derived=physical_quantities,
)
"""Priors of a pendulum about as long as an arm: a length within 0.5–1.3 m in 68 of 100 cases, and so on."""
