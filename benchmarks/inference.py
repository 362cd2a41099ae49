"""What a fit costs beside code written by hand, Pyro's own guide and other libraries.

    .venv/bin/python benchmarks/inference.py
    .venv/bin/pip install -c constraints.txt --no-deps bayesian-torch tyxe    # rows of peers, if they are to be there

Prints, measured side by side in one process on one thread, the rows of a table taking turns in every round:
1. a step of variational inference (2×200 units, minibatch of 256 out of 10,000) over a hand-written one of the same
   ELBO: local reparameterisation, analytic KL, fused Adam. Aim: at most 1.3.
2. an ensemble of five in one batched pass over five single fits. Aim: at most 0.6.
3. prediction with K = 100 samples as one batched product over one network at a time.
4. whole fits of 400 steps by every family but NUTS, over the point estimate's (2×50 units, 1,000 data).
CPU seconds of this process are compared, which other work on the machine disturbs less than wall time.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from types import ModuleType

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from bayes_mbrl.inference import concrete_dropout, dropout, ensemble, laplace, low_rank, point, sghmc, svi
from bayes_mbrl.inference.base import sample_prior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.pyro_elbo import as_pyro_program

NUM_DATA, INPUTS, OUTPUTS, BATCH, WIDTH = 10_000, 6, 4, 256, 200
LEARNING_RATE = 1e-3
Steps = Callable[[int], None]
"""Does so many steps of a fit."""


def network() -> BayesianNetwork:
    """2×200 SiLU units, heteroscedastic."""
    return BayesianNetwork(INPUTS, OUTPUTS, hidden=(WIDTH, WIDTH))


def hand_written(x: Tensor, y: Tensor, generator: torch.Generator) -> Steps:
    """The ELBO of `network` in plain torch: what a person would write who needs nothing else."""
    sizes = [(INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * OUTPUTS)]
    parameters = []
    for fan_in, width in sizes:
        std = 1 / math.sqrt(fan_in)
        loc = torch.randn(fan_in, width, generator=generator) * std
        scale, bias_scale = torch.full((fan_in, width), 0.02 * std), torch.full((width,), 0.02)
        parameters += [loc, scale.log(), torch.zeros(width), bias_scale.log()]
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def step() -> None:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        hidden, targets, kl = x[rows], y[rows], torch.zeros(())
        for layer, (fan_in, _) in enumerate(sizes):
            loc, log_scale, bias_loc, bias_log_scale = parameters[4 * layer : 4 * layer + 4]
            variance, bias_variance = (2 * log_scale).exp(), (2 * bias_log_scale).exp()
            mean = torch.addmm(bias_loc, hidden, loc)
            std = torch.addmm(bias_variance, hidden * hidden, variance).sqrt()
            hidden = mean + std * torch.randn(mean.shape, generator=generator)
            if layer < 2:
                hidden = nn.functional.silu(hidden)
            kl = kl + 0.5 * fan_in * (variance + loc**2).sum() - log_scale.sum()
            kl = kl + 0.5 * (bias_variance + bias_loc**2).sum() - bias_log_scale.sum()
        mean, raw = hidden[:, :OUTPUTS], hidden[:, OUTPUTS:]
        std = 1e-3 + 2 * torch.sigmoid(raw - math.log(2))
        loss = len(x) / BATCH * (0.5 * ((targets - mean) / std) ** 2 + std.log()).sum() + kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def steps(n: int) -> None:
        for _ in range(n):
            step()

    return steps


def ours(x: Tensor, y: Tensor, generator: torch.Generator, gradient: svi.Gradient) -> Steps:
    """`svi.fit`, from the checks of its data to the posterior."""

    def steps(n: int) -> None:
        svi.fit(
            network(),
            x,
            y,
            generator=generator,
            num_steps=n,
            batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            gradient=gradient,
        )

    return steps


def ours_low_rank(x: Tensor, y: Tensor, generator: torch.Generator) -> Steps:
    """`low_rank.fit` with its ten directions and one particle."""

    def steps(n: int) -> None:
        settings = {"num_steps": n, "batch_size": BATCH, "learning_rate": LEARNING_RATE, "num_particles": 1}
        low_rank.fit(network(), x, y, generator=generator, **settings)  # type: ignore[arg-type]

    return steps


def pyro_auto_normal(x: Tensor, y: Tensor, generator: torch.Generator, elbo: type) -> Steps:
    """Pyro's AutoNormal on the same model, its program with a site for each parameter."""
    pyro.clear_param_store()
    program = as_pyro_program(network())
    guide = AutoNormal(program)
    optimiser = SVI(program, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss=elbo())

    def steps(n: int) -> None:
        with pyro.validation_enabled(False):
            for _ in range(n):
                rows = torch.randint(len(x), (BATCH,), generator=generator)
                optimiser.step(x[rows], y[rows])

    return steps


def tyxe_with_local_reparameterisation(x: Tensor, y: Tensor, generator: torch.Generator) -> Steps:
    """TyXe's VariationalBNN with its local reparameterisation and a homoscedastic Gaussian."""
    import tyxe

    pyro.clear_param_store()
    net = nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, OUTPUTS)
    )
    prior = tyxe.priors.IIDPrior(pyro.distributions.Normal(0, 1))
    likelihood = tyxe.likelihoods.HomoskedasticGaussian(len(x), scale=0.1)
    bnn = tyxe.VariationalBNN(net, prior, likelihood, functools.partial(tyxe.guides.AutoNormal, init_scale=0.02))
    optimiser = pyro.optim.Adam({"lr": LEARNING_RATE})

    def steps(n: int) -> None:
        with pyro.validation_enabled(False), tyxe.poutine.local_reparameterization():
            batches = (torch.randint(len(x), (BATCH,), generator=generator) for _ in range(n))
            bnn.fit([(x[rows], y[rows]) for rows in batches], optimiser, 1)

    return steps


def bayesian_torch_reparameterisation(x: Tensor, y: Tensor, generator: torch.Generator) -> Steps:
    """bayesian-torch's LinearReparameterization (one draw of the weights a minibatch) and a homoscedastic Gaussian."""
    from bayesian_torch.layers import LinearReparameterization

    layers = [LinearReparameterization(a, b) for a, b in [(INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, OUTPUTS)]]
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=LEARNING_RATE, fused=True)

    def step() -> None:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        hidden, kl = x[rows], torch.zeros(())
        for number, layer in enumerate(layers):
            hidden, of_layer = layer(hidden)
            hidden, kl = nn.functional.silu(hidden) if number < 2 else hidden, kl + of_layer
        loss = len(x) / BATCH * 0.5 * ((y[rows] - hidden) / 0.1).square().sum() + kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def steps(n: int) -> None:
        for _ in range(n):
            step()

    return steps


def members(x: Tensor, y: Tensor, generator: torch.Generator, num_fits: int, num_members: int) -> Steps:
    """So many fits of an ensemble of so many members, one after the other."""

    def steps(n: int) -> None:
        for _ in range(num_fits):
            settings = {"num_members": num_members, "num_steps": n, "batch_size": BATCH}
            ensemble.fit(network(), x, y, generator=generator, **settings)  # type: ignore[arg-type]

    return steps


def family(generator: torch.Generator, module: ModuleType, **settings: object) -> Steps:
    """A fit of 2×50 units to 1,000 data, 400 steps long, as often as asked."""
    model = BayesianNetwork(INPUTS, 2)
    x, y = (torch.randn(1000, width, generator=generator) for width in (INPUTS, 2))

    def steps(n: int) -> None:
        for _ in range(n):
            module.fit(model, x, y, generator=generator, num_steps=400, **settings)

    return steps


def predictions(x: Tensor, generator: torch.Generator, batched: bool) -> Steps:
    """The prediction of 100 samples of θ for 100 data, in one pass or one network at a time."""
    model = network()
    theta = sample_prior(model, 100, generator=generator)
    each = [{name: value[k] for name, value in theta.items()} for k in range(100)]

    def steps(n: int) -> None:
        with torch.no_grad():
            for _ in range(n):
                if batched:
                    model.predict(theta, x[:100])
                else:
                    torch.stack([model.predict(one, x[:100])[0] for one in each])

    return steps


def compare(title: str, rows: Mapping[str, Callable[[], Steps]], num_steps: int, num_rounds: int) -> None:
    """Print each row's CPU time a step or fit, and its ratio to the first row's: medians over rounds, least, most."""
    print(f"\n{title}\n{'':44} {'CPU-ms':>9}  ratio to the first (least, most)")
    ready: dict[str, Steps] = {}
    for name, make in rows.items():
        try:
            ready[name] = make()
            ready[name](1)
        except Exception as error:  # a peer's; the table says so and goes on
            ready.pop(name, None)
            print(f"{name:44} not measured: {type(error).__name__}: {str(error)[:60]}")
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(num_rounds):
        for name, steps in ready.items():
            start = time.process_time()
            steps(num_steps)
            times[name].append((time.process_time() - start) / num_steps)
    first = times[next(iter(times))]
    for name, seconds in times.items():
        ratios = [one / base for one, base in zip(seconds, first, strict=True)]
        milliseconds, ratio = 1e3 * statistics.median(seconds), statistics.median(ratios)
        print(f"{name:44} {milliseconds:9.2f}  {ratio:5.2f} ({min(ratios):.2f}, {max(ratios):.2f})")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="steps of a row in each round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # the peers have no generators
    x, y = (torch.randn(NUM_DATA, width, generator=generator) for width in (INPUTS, OUTPUTS))

    def row(make: Callable[..., Steps], *more: object) -> Callable[[], Steps]:
        return functools.partial(make, x, y, generator, *more)

    compare(
        "A step of variational inference, 2×200 units, minibatch of 256",
        {
            "by hand, local reparameterisation": row(hand_written),
            "ours, local reparameterisation": row(ours, "local-reparameterisation"),
            "ours, flipout": row(ours, "flipout"),
            "ours, weight sampling": row(ours, "weight-sampling"),
            "ours, low rank (10)": row(ours_low_rank),
            "Pyro AutoNormal, Trace_ELBO": row(pyro_auto_normal, Trace_ELBO),
            "Pyro AutoNormal, TraceMeanField_ELBO": row(pyro_auto_normal, TraceMeanField_ELBO),
            "TyXe, local reparameterisation": row(tyxe_with_local_reparameterisation),
            "bayesian-torch, weight sampling": row(bayesian_torch_reparameterisation),
        },
        options.steps,
        options.rounds,
    )
    compare(
        "Five networks of 2×200 units, minibatches of 256",
        {"five fits, one after the other": row(members, 5, 1), "an ensemble of five": row(members, 1, 5)},
        options.steps,
        options.rounds,
    )
    compare(
        "Prediction with 100 samples of θ at 100 inputs",
        {
            "one network at a time": functools.partial(predictions, x, generator, False),
            "one batched product": functools.partial(predictions, x, generator, True),
        },
        options.steps,
        options.rounds,
    )
    fits: dict[str, tuple[ModuleType, dict[str, object]]] = {
        "point": (point, {}),
        "mean-field": (svi, {}),
        "low-rank": (low_rank, {}),
        "laplace": (laplace, {}),
        "ensemble of 5": (ensemble, {}),
        "mc-dropout": (dropout, {}),
        "concrete-dropout": (concrete_dropout, {}),
        "sghmc, 4 chains": (sghmc, {}),
    }
    compare(
        "A fit of 400 steps, 2×50 units, 1,000 data",
        {name: functools.partial(family, generator, module, **settings) for name, (module, settings) in fits.items()},
        1,
        max(1, options.rounds // 2),
    )


if __name__ == "__main__":
    main()
