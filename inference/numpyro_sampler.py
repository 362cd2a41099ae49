"""The compiled loop around NumPyro's no-U-turn sampler: tensors in, tensors out, all chains as one batch.

JAX runs on the CPU, in the precision of the tensors. Its global settings are neither read nor changed; XLA uses as many
threads as there are cores unless the environment says XLA_FLAGS=--xla_cpu_multi_thread_eigen=false.
Axes: P entries of all parameters together.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.dlpack
import jax.numpy as jnp
import torch
from jax import Array
from numpyro.infer.hmc import hmc
from numpyro.infer.util import potential_energy
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from tqdm import tqdm

from bayes_mbrl.inference.base import require
from bayes_mbrl.inference.numpyro_models import NumpyroModel

Data = tuple[Array, ...]
"""(mean and std of the prior [P], x [N, D], y [N, O])."""


class Settings(NamedTuple):
    """What is compiled into a sampler."""

    num_warmup: int
    target_acceptance: float
    max_tree_depth: int
    dense_mass: bool


class Chains(NamedTuple):
    """What is kept of every iteration after the warm-up."""

    theta: Tensor
    """[chain, draw, P]."""
    potential: Tensor
    """−log joint [chain, draw], in nats."""
    energy: Tensor
    """Potential + kinetic energy [chain, draw], in nats."""
    acceptance: Tensor
    """Mean acceptance probability along the trajectory [chain, draw]."""
    num_leapfrog_steps: Tensor
    """[chain, draw]."""
    diverging: Tensor
    """[chain, draw]."""


def sample_chains(
    declared: NumpyroModel,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
    start: Tensor,
    variance: Tensor,
    *,
    log_joint: Tensor,
    num_draws: int,
    settings: Settings,
    generator: torch.Generator,
) -> tuple[Chains, Tensor]:
    """(what is kept, step size [chain]) of chains that start at `start` [chain, P].

    data: mean and std of the prior [P], x [N, D], y [N, O]. The mass matrix is first made of `variance` [P], roughly
    that of the posterior. `log_joint` [chain] is what the model itself says about `start`: ValueError when NumPyro
    says otherwise.
    """
    words = torch.randint(2**32, (2,), generator=generator, device=generator.device)
    num_chains = len(start)
    with _jax_settings(start.dtype):
        key = jax.random.wrap_key_data(jnp.array(words.cpu().numpy(), jnp.uint32), impl="threefry2x32")
        arrays = tuple(_to_jax(tensor) for tensor in data)
        sampler = _compiled(declared, settings)
        state = sampler.begin(jax.random.split(key, num_chains), _to_jax(start), _to_jax(variance), arrays)
        _check_declaration(log_joint, -_to_torch(state.potential_energy).to(log_joint))
        kept = jax.tree.map(lambda now: jnp.zeros((num_chains, num_draws, *now.shape[1:]), now.dtype), _shown(state))
        for first, last in _with_progress(settings.num_warmup, num_draws):
            state, kept = sampler.advance(state, kept, first, last, arrays)
            kept[0].block_until_ready()
        return Chains(*map(_to_torch, kept)), _to_torch(state.adapt_state.step_size)


def _check_declaration(expected: Tensor, got: Tensor) -> None:
    """Raise ValueError unless the log joint [chain] is by NumPyro what it is by the model itself."""
    require(
        (
            torch.allclose(got, expected, rtol=1e-3, atol=1e-3),
            f"the model's log joint is {expected.tolist()} but {got.tolist()} as declared for NumPyro: a "
            "ParametricRegression's function may use only what torch and jax.numpy share, and a class of its own needs "
            "its own declaration in inference/numpyro_models.py",
        )
    )


class _Sampler(NamedTuple):
    """Compiled at the first call, once for each shape. θ is a vector: XLA's work is by the array, not by its size."""

    begin: Callable[[Array, Array, Array, Data], Any]
    """(keys [chain], θ [chain, P], variances [P], data) → state."""
    advance: Callable[[Any, Any, int, int, Data], tuple[Any, Any]]
    """(state, kept, first iteration, last iteration, data) → (state, kept)."""


@functools.lru_cache(maxsize=8)
def _compiled(declared: NumpyroModel, settings: Settings) -> _Sampler:
    """The sampler as functions of the data, so that others of the same shape need no compilation."""

    def potential(*data: Array) -> Callable[[Array], Array]:
        return lambda theta: potential_energy(declared, data, {}, declared.split(theta))

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    def begin(key: Array, theta: Array, variance: Array, data: Data) -> Any:
        return init_kernel(
            theta,
            settings.num_warmup,
            inverse_mass_matrix=jnp.diag(variance) if settings.dense_mass else variance,
            target_accept_prob=settings.target_acceptance,
            max_tree_depth=settings.max_tree_depth,
            dense_mass=settings.dense_mass,
            model_args=data,
            rng_key=key,
        )

    def advance(state: Any, kept: Any, first: int, last: int, data: Data) -> tuple[Any, Any]:
        def iteration(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, kept = carry
            state = jax.vmap(lambda chain: sample_kernel(chain, data))(state)
            draw = jnp.maximum(i - settings.num_warmup, 0)  # what the warm-up writes is overwritten by the first draw
            return state, jax.tree.map(lambda rows, now: rows.at[:, draw].set(now), kept, _shown(state))

        carry: tuple[Any, Any] = jax.lax.fori_loop(first, last, iteration, (state, kept))
        return carry

    return _Sampler(jax.jit(jax.vmap(begin, in_axes=(0, 0, None, None))), jax.jit(advance, donate_argnums=(0, 1)))


def _shown(state: Any) -> tuple[Any, ...]:
    """What is kept of a state."""
    return state.z, state.potential_energy, state.energy, state.accept_prob, state.num_steps, state.diverging


def _with_progress(num_warmup: int, num_draws: int) -> Iterator[tuple[int, int]]:
    """Slices of the iterations, with a bar when stderr is a terminal that nobody else (a live display) has taken.

    Between two slices Python has its say, Ctrl-C for one. The numbers do not depend on them.
    """
    total = num_warmup + num_draws
    size = max(1, total // 40)
    terminal = sys.__stderr__
    is_shown = terminal is not None and sys.stderr is terminal and terminal.isatty()
    with tqdm(total=total, disable=not is_shown, leave=False) as bar:
        for first in range(0, total, size):
            last = min(first + size, total)
            bar.set_description("compiling" if first == 0 else "warm-up" if first < num_warmup else "draws")
            yield first, last
            bar.update(last - first)


@contextlib.contextmanager
def _jax_settings(dtype: torch.dtype) -> Iterator[None]:
    """JAX on the CPU and in this precision for as long as it lasts."""
    with jax.enable_x64(dtype == torch.float64), jax.default_device(jax.devices("cpu")[0]):
        yield


def _to_jax(tensor: Tensor) -> Array:
    """A copy, which no posterior's caller can change."""
    return jnp.array(tensor.detach().cpu().numpy())


def _to_torch(array: Array) -> Tensor:
    """The same memory: it is not JAX's any more once the array is forgotten."""
    return from_dlpack(array)
