"""The cart-pole's physics by energy and momentum, by the lesser of two integrators, and what the reward is worth."""

import gymnasium
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from bayes_mbrl.environments import cartpole_swingup as swing


def energy(state: np.ndarray) -> float:
    """Of the rod and the cart, from the rod's points: ∫ ½ |v|² + g y dm by Gauss-Legendre quadrature, exact here."""
    _, speed, angle, spin = state
    nodes, weights = np.polynomial.legendre.leggauss(3)
    along, mass = 0.5 * swing.LENGTH * (nodes + 1), 0.5 * swing.POLE_MASS * weights
    velocity = np.stack([speed + along * spin * np.cos(angle), along * spin * np.sin(angle)])
    rod = np.sum(mass * (0.5 * (velocity**2).sum(0) - swing.GRAVITY * along * np.cos(angle)))
    return float(0.5 * swing.CART_MASS * speed**2 + rod)


def test_without_friction_and_force_energy_and_momentum_stay() -> None:
    state = start = np.array([0.3, -0.7, 2.0, 4.0])

    def momentum(state: np.ndarray) -> float:
        half = 0.5 * swing.POLE_MASS * swing.LENGTH
        return float((swing.CART_MASS + swing.POLE_MASS) * state[1] + half * state[3] * np.cos(state[2]))

    for _ in range(2000):
        state = swing.runge_kutta(state, 0.0, 1e-3, friction=0.0)
    assert abs(state[2] - start[2]) > 0.3
    assert energy(state) == pytest.approx(energy(start), abs=1e-9)
    assert momentum(state) == pytest.approx(momentum(start), abs=1e-9)


def test_power_is_force_less_friction_times_speed() -> None:
    state, force, seconds = np.array([0.1, 0.8, 1.0, -3.0]), 7.0, 1e-5
    gained = (energy(swing.runge_kutta(state, force, seconds)) - energy(state)) / seconds
    assert gained == pytest.approx((force - swing.FRICTION * state[1]) * state[1], abs=1e-3)


def test_a_step_is_a_tenth_of_a_second_of_an_adaptive_integrator() -> None:
    environment = swing.CartPoleSwingUp()
    environment.reset(seed=0)
    environment.state = np.array([0.2, -1.0, 2.5, 5.0], np.float32)
    exact = solve_ivp(
        lambda _, s: swing.slope(s, 10.0), (0, 0.1), environment.state.astype(float), rtol=1e-10, atol=1e-10
    ).y[:, -1]
    observed, *_ = environment.step(np.array([50.0], np.float32))  # clipped
    np.testing.assert_allclose(observed, exact, atol=2e-4)


@pytest.mark.parametrize(
    ("x", "angle", "force", "reward"),
    [
        (0.0, np.pi, 0.0, 1.0),
        (0.0, -np.pi, 10.0, np.exp(-0.5)),
        (0.25, np.pi, 0.0, np.exp(-0.5)),  # one width away
        (-0.5, np.pi / 2, 0.0, np.exp(-(0.5**2) / 0.125)),  # the tip below its target by a length
        (0.0, 0.0, 0.0, np.exp(-8)),
    ],
)
def test_rewards(x: float, angle: float, force: float, reward: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swing, "runge_kutta", lambda state, *_: state)
    environment = swing.CartPoleSwingUp()
    environment.reset(seed=0)
    environment.state = np.array([x, 0.0, angle, 0.0], np.float32)
    assert environment.step(np.array([force], np.float32))[1] == pytest.approx(reward, rel=1e-5)


def test_one_episode_is_40_steps_and_seeds_decide_it() -> None:
    def states(seed: int) -> np.ndarray:
        environment = gymnasium.make("bayes_mbrl/CartPoleSwingUp-v0", disable_env_checker=True)
        rows = [environment.reset(seed=seed)[0]]
        truncated = False
        while not truncated:
            state, _, terminated, truncated, _ = environment.step(np.array([3.0], np.float32))
            assert not terminated
            rows.append(state)
        return np.stack(rows)

    assert states(1).shape == (41, 4)
    assert np.array_equal(states(1), states(1))
    starts = np.stack([swing.CartPoleSwingUp().reset(seed=seed)[0] for seed in range(400)])
    assert np.abs(starts.std(axis=0) / 0.1 - 1).max() < 5 / 800**0.5
