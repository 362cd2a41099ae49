"""The two contracts of inference: a model is a joint density, a posterior is anything that can be sampled.

Axes: K parameter samples, N data, D inputs, O outputs.
"""

import contextlib
import functools
import inspect
import json
import operator
import pathlib
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, Self, TypeVar, get_args, get_origin

import safetensors
import safetensors.torch
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.distributions import Distribution, Normal

from bayes_mbrl.inference.layers import Parameter

P = ParamSpec("P")
R = TypeVar("R")
Q = TypeVar("Q", bound="Posterior")

Theta = dict[str, Tensor]
"""Parameters by name. A set of K samples has a leading axis: {name: [K, ...]}."""


class Model(ABC):
    """A joint density p(θ) Π_i p(y_i | x_i, θ)."""

    @property
    def affine_parameters(self) -> frozenset[str]:
        """Parameters that enter through `layers.affine` alone: a fit may draw those datum by datum."""
        return frozenset()

    @property
    def hidden_weights(self) -> frozenset[str]:
        """Those of the affine weights [D, O] whose inputs are hidden units: what dropout masks."""
        return frozenset()

    @property
    def last_layer(self) -> frozenset[str]:
        """What a last-layer posterior is random in: all parameters, where there are no layers."""
        return frozenset(self.prior())

    @abstractmethod
    def prior(self) -> dict[str, Distribution]:
        """p(θ) as independent distributions by name; `batch_shape + event_shape` is the parameter's shape."""

    @abstractmethod
    def log_likelihood(self, theta: Mapping[str, Parameter], x: Tensor, y: Tensor) -> Tensor:
        """log p(y_i | x_i, θ), one number a datum, in nats; neither summed over data nor averaged.

        theta {name: [...]}, x [N, D], y [N, O] → [N]; theta {name: [K, ...]} → [K, N], where x and y may have data
        of their own for each θ_k: [K, N, D] and [K, N, O].
        The factor N/n of a minibatch is the approximation's business and applied there, once.
        """

    @property
    def jax_log_likelihood(self) -> Callable[..., Any] | None:
        """What NUTS needs of a model of your own: (θ {name: ...}, x [N, D], y [N, O]) → log p(y_i | x_i, θ) [N] in
        jax.numpy, for one θ. Every fit holds it against `log_likelihood`. A function that is the same object each time
        is compiled once. None: NUTS refuses the model.
        """
        return None

    def doubts(self, x: Tensor, y: Tensor) -> list[str]:
        """What about finite data does not suit this prior: a sentence each, with the cure."""
        return []

    def faults(self, y: Tensor) -> list[str]:
        """Why this model gives finite targets [N, O] no density: a sentence each."""
        return []

    @abstractmethod
    def initial(self, n: int, *, generator: torch.Generator) -> Theta:
        """n parameter values from which an optimiser or a chain can start: {name: [n, ...]}."""


class Posterior(ABC):
    """p(θ | D), or an approximation to it: anything that can be sampled. Frozen; keeps no data and no optimiser.

    Laws, tested for every posterior from one table (tests/inference/test_conformance.py): the same generator state
    gives the same draws; the global random state stays where it was; names, shapes, dtype and device are the
    model's; a saved and loaded posterior draws the same.
    """

    kind: ClassVar[str]
    """The name under which it is saved."""

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """n draws θ ~ p(θ | D): {name: [n, ...]}."""

    def log_density(self, theta: Theta) -> Tensor | None:
        """log q(θ_k) {name: [K, ...]} → [K] in nats, in float64; None where q has no density (stored draws, masks).

        Of parameters that q holds at one value there is none: the density is that of the others.
        """
        return None

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that defines this posterior, by flat names: what `save_posterior` writes."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""


def parameter_shapes(model: Model) -> dict[str, torch.Size]:
    """Shape of every parameter of the model, without a sample axis."""
    return {name: prior.batch_shape + prior.event_shape for name, prior in model.prior().items()}


def log_prior(prior: Mapping[str, Distribution], theta: Theta) -> Tensor:
    """log p(θ_k), summed over all parameters: {name: [K, ...]} → [K], in nats."""
    terms = [prior[name].log_prob(value).reshape(len(value), -1).sum(1) for name, value in theta.items()]
    return torch.stack(terms).sum(0)


def normal_prior(model: Model) -> dict[str, Normal]:
    """The model's prior, for an inference that is only right for normal ones. Raises ValueError for others."""
    normal = {name: prior for name, prior in model.prior().items() if isinstance(prior, Normal)}
    others = [name for name in model.prior() if name not in normal]
    require((not others, f"need normal priors (give a scale by its logarithm), got others for {', '.join(others)}"))
    return normal


def sample_prior(model: Model, n: int, *, generator: torch.Generator, spread: float = 1.0) -> Theta:
    """n draws θ ~ p(θ), or with a `spread` below 1 closer to its mean: {name: [n, ...]}.

    With `Regression.sample` these are prior-predictive draws; in a `DrawsPosterior`, a posterior that has seen no data.
    Raises ValueError unless the prior is normal.
    """
    return {
        name: torch.addcmul(
            prior.loc, spread * prior.scale, prior.loc.new_empty(n, *prior.loc.shape).normal_(generator=generator)
        )
        for name, prior in normal_prior(model).items()
    }


def warm_start_as(kind: type[Q], warm_start: Posterior, model: Model) -> Q:
    """The posterior to start from. Raises ValueError when it is of another kind or over other parameters."""
    if not isinstance(warm_start, kind):
        raise ValueError(f"need a {kind.__name__} as warm_start, got a {type(warm_start).__name__}")
    shapes = parameter_shapes(model)
    theta = warm_start.sample(1, generator=torch.Generator(_dtype_and_device(model)[1]))
    got = {name: value.shape[1:] for name, value in theta.items()}
    different = sorted(name for name in shapes.keys() | got.keys() if shapes.get(name) != got.get(name))
    require((not different, f"warm_start and model differ in the shapes of {', '.join(different)}"))
    return warm_start


def named_parts(tensors: Mapping[str, Tensor], parts: Sequence[str]) -> list[Theta]:
    """Tensors called `<part>/<name>` as {name: tensor} for each part."""
    return [
        {key.removeprefix(f"{part}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{part}/")}
        for part in parts
    ]


def save_posterior(posterior: Posterior, path: pathlib.Path) -> None:
    """Write the posterior's tensors and kind as safetensors, never as a pickle."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in posterior.tensors().items()}
    metadata = {"kind": posterior.kind, "order": json.dumps(list(tensors))}
    safetensors.torch.save_file(tensors, path, metadata=metadata)


def load_posterior(path: pathlib.Path, kinds: Mapping[str, type[Posterior]]) -> Posterior:
    """Read what `save_posterior` wrote; `kinds` says which class belongs to which saved kind.

    Raises ValueError when the file is damaged or of a kind that is not among `kinds`.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            kind = str(metadata.get("kind"))
            order = json.loads(metadata.get("order", "[]"))  # the file has its own, and draws depend on it
            # Cloned: a product may be rounded by where in memory its factors start, and in a file they start anywhere.
            tensors = {name: file.get_tensor(name).clone() for name in order}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    if kind not in kinds:
        raise ValueError(f"{path} holds a posterior of kind {kind!r}; known kinds: {', '.join(sorted(kinds))}")
    return kinds[kind].from_tensors(tensors)


def require(*checks: tuple[bool, str]) -> None:
    """Raise one ValueError that names every check that failed."""
    if problems := [message for passed, message in checks if not passed]:
        raise ValueError("; ".join(problems))


def check_settings(fit: Callable[P, R]) -> Callable[P, R]:
    """Make a `fit` raise ValueError, before any work, for every setting that its annotation does not allow.

    `Annotated[int, Gt(0)]` or `Literal["a", "b"]` is written once, in the signature it belongs to: here it guards
    calls from Python, and the configuration reads the same annotation to report all mistakes before a run starts.
    """
    signature = inspect.signature(fit)
    bounds = {
        name: [m for m in parameter.annotation.__metadata__ if isinstance(m, Gt | Ge | Lt | Le)]
        for name, parameter in signature.parameters.items()
        if get_origin(parameter.annotation) is Annotated
    }
    choices = {
        name: get_args(parameter.annotation)
        for name, parameter in signature.parameters.items()
        if get_origin(parameter.annotation) is Literal
    }

    @functools.wraps(fit)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        require(
            *(_check(name, given[name], bound) for name in bounds if name in given for bound in bounds[name]),
            *(
                (given[name] in allowed, f"{name} is one of {', '.join(map(str, allowed))}, got {given[name]!r}")
                for name, allowed in choices.items()
                if name in given
            ),
        )
        return fit(*args, **kwargs)

    return checked


_COMPARISONS: dict[type, tuple[str, str, Callable[[float, float], bool]]] = {
    Gt: ("gt", ">", operator.gt),
    Ge: ("ge", ">=", operator.ge),
    Lt: ("lt", "<", operator.lt),
    Le: ("le", "<=", operator.le),
}


def _check(name: str, value: float, bound: Gt | Ge | Lt | Le) -> tuple[bool, str]:
    field, symbol, holds = _COMPARISONS[type(bound)]
    limit = getattr(bound, field)
    return holds(value, limit), f"need {name} {symbol} {limit}, got {value}"


def check_regression_data(model: Model, x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless x [N, D] and y [N, O] are finite, equally long, not empty and of the model's dtype.

    The message names the field and its first bad row. Warns of what the model doubts about them.
    """
    dtype, device = _dtype_and_device(model)
    require(
        (x.ndim == 2 and y.ndim == 2, f"need x [N, D] and y [N, O], got {list(x.shape)} and {list(y.shape)}"),
        (x.dtype == y.dtype == dtype, f"need x and y in the model's {dtype}, got {x.dtype} and {y.dtype}"),
        (x.device == y.device == device, f"need x and y on the model's {device}, got {x.device} and {y.device}"),
    )
    require((len(x) == len(y) > 0, f"need as many rows in y as in x and at least one, got {len(x)} and {len(y)}"))
    for name, values in (("x", x), ("y", y)):
        bad = ~torch.isfinite(values).all(dim=1)
        require(
            (
                not bool(bad.any()),
                f"{name} has NaN or inf in {int(bad.sum())} rows, first in row {int(bad.int().argmax())}",
            )
        )
    require(*((False, fault) for fault in model.faults(y)))
    for doubt in model.doubts(x, y):
        warnings.warn(doubt, stacklevel=_stack_level_of_caller())


def _stack_level_of_caller() -> int:
    """Of the first frame outside this package, for `warnings.warn` one call below: where a person called a `fit`.

    One fit may call another, and each checks: at one place, one message is shown once.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and pathlib.Path(frame.f_code.co_filename).parent == pathlib.Path(__file__).parent:
        level, frame = level + 1, frame.f_back
    return level


def _dtype_and_device(model: Model) -> tuple[torch.dtype, torch.device]:
    mean = next(iter(model.prior().values())).mean
    return mean.dtype, mean.device


@contextlib.contextmanager
def seeded_global_state(generator: torch.Generator) -> Iterator[None]:
    """Lend code that only knows torch's global random state a seed drawn from `generator`, and restore it after."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        yield
