"""Every choice by its name on the command line. Adding a method is a file and a row here; nothing else is edited.

Targets are written as "module:attribute" and imported when used: listing the rows loads no framework, and a run loads
only the frameworks that it uses. The settings of a row are the parameters of its target's signature, less those
that the program supplies at run time (`Table.runtime`).

A row of one's own stands in any module, and its name is where: "module:attribute".
"""

import dataclasses
import importlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

from bayes_mbrl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One choice: what it is, where it is, and what it asks of the other choices."""

    summary: str
    """One line for `bayes-mbrl list`."""
    target: str
    """"module:attribute" of the function or class."""
    posteriors: tuple[str, ...] = ()
    """"module:attribute" of the classes that this inference returns, for loading them."""
    discrete: str = ""
    """Of a planner: "module:attribute" of its form for actions that are choices; the target itself, if that is all it
    can plan; "" if it cannot."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Defaults of the target's own settings, where its signature has none or others suit better."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Recommended values of other sections, in the form of a configuration file; names of later sections only."""
    requires: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Section → the one name it must have."""
    at_least: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Key of the section `rollout` → the least value it may have."""
    about_theta: bool = False
    """Of an objective: it compares samples of θ, so these have to be kept apart."""
    mixes_theta: bool = False
    """Of a propagation: a particle does not keep its θ over the horizon."""
    plans: bool = True
    """Of an algorithm: it acts by planning, with the planner and the objective; else by what it has learned."""
    learns_model: bool = True
    """Of an algorithm: p(θ | D) is fitted at all."""

    def load(self) -> Callable[..., Any]:
        """The function or class. Raises UserError when it needs a package that is not installed."""
        return load_attribute(self.target)


@dataclasses.dataclass(frozen=True)
class Table:
    """All choices of one kind."""

    default: str
    rows: Mapping[str, Row]
    runtime: frozenset[str] = frozenset()
    """Parameters of the targets that are no settings: the program supplies them."""
    has_settings: bool = True
    """False for functions that are used as they are."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Other names of rows."""
    trial: Callable[[], Mapping[str, Any]] | None = None
    """Run-time arguments with which a target can be called to check its settings; None when that needs data."""

    def find(self, name: str) -> Row:
        """The row of that name, or the `Row` that "module:attribute" names.

        Raises KeyError when no row has the name, UserError when module or attribute is not there or is no `Row`.
        """
        return _own_row(name) if is_own(name) else self.rows[name]


def is_own(name: str) -> bool:
    """Whether it names a row outside the tables, "module:attribute"."""
    return ":" in name


def _own_row(name: str) -> Row:
    module, _, attribute = name.partition(":")
    try:
        row = operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:  # a module from elsewhere may raise anything
        raise UserError(
            f"cannot find {name!r}, which names a Row of your own as module:attribute: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(row, Row):
        raise UserError(f"{name} should be a bayes_mbrl.registry.Row, got {row!r}")
    return row


def load_attribute(target: str) -> Callable[..., Any]:
    """What "module:attribute" names. Raises UserError when a package outside this one is missing."""
    module, attribute = target.split(":")
    try:
        loaded: Callable[..., Any] = operator.attrgetter(attribute)(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bayes_mbrl"):
            raise
        raise UserError(
            f"{module} needs the package {error.name}, which is not installed: pip install {error.name}"
        ) from error
    return loaded


def posterior_kinds(name: str) -> dict[str, type[Any]]:
    """Saved kind → class, for all posteriors that the inference `name` returns: what `load_posterior` asks for."""
    classes: list[Any] = [load_attribute(target) for target in POSTERIORS.find(name).posteriors]
    return {posterior.kind: posterior for posterior in classes}


def _trial_bounds() -> Mapping[str, Any]:
    import torch

    return {"low": -torch.ones(1), "high": torch.ones(1), "choices": (2,)}


def _trial_transitions() -> Mapping[str, Any]:
    import torch

    from bayes_mbrl.data import Transitions

    rows, nothing = torch.zeros(2, 1), torch.zeros(2)
    return {"transitions": Transitions(rows, rows, nothing, rows, nothing.bool(), nothing.long())}


_OFF_POLICY_BUDGET: Mapping[str, Any] = {"num_episodes": 1000, "num_base_steps": 200}
"""Steps are what counts where something is learned from each, and a beginner's episodes may be short."""

ALGORITHMS = Table(
    default="mpc",
    trial=dict,
    aliases={
        "v0.5": "open-loop-once",
        "v1.0": "open-loop",
        "v1.5": "mpc",
        "v2.0": "policy-backprop",
        "v2.5": "policy-gradient",
        "v3.0": "mbpo",
        "pets": "mpc",
    },
    rows={
        "open-loop-once": Row(
            "v0.5: fit p(θ|D) once, to data of the base policy, and execute whole plans without looking",
            "bayes_mbrl.algorithms.open_loop:OpenLoopOnce",
        ),
        "open-loop": Row(
            "v1.0: execute whole plans without looking, refit after each episode",
            "bayes_mbrl.algorithms.open_loop:OpenLoop",
        ),
        "mpc": Row(
            "v1.5 with p(θ|D): plan by imagined rollouts, act by the plan's first action, refit as data come in",
            "bayes_mbrl.algorithms.mpc:MPC",
        ),
        "policy-backprop": Row(
            "v2.0: backpropagate through imagined trajectories into a policy, run it, refit",
            "bayes_mbrl.algorithms.policy_backprop:PolicyBackprop",
            plans=False,
        ),
        "policy-gradient": Row(
            "v2.5: policy gradient on imagined trajectories, until held-out models see no gain; run it, refit",
            "bayes_mbrl.algorithms.policy_gradient:PolicyGradient",
            plans=False,
        ),
        "mbpo": Row(
            "v3.0: short imagined rollouts from real states, and soft actor-critic on both (MBPO)",
            "bayes_mbrl.algorithms.mbpo:MBPO",
            plans=False,
            defaults={**_OFF_POLICY_BUDGET, "num_steps": 2400},
        ),
        "mve": Row(
            "soft actor-critic whose targets look H imagined steps ahead (MVE)",
            "bayes_mbrl.algorithms.mve:MVE",
            plans=False,
            defaults={**_OFF_POLICY_BUDGET, "num_steps": 2400},
        ),
        "mba": Row(
            "Q-learning with a quadratic advantage (NAF) on real and imagined transitions (MBA)",
            "bayes_mbrl.algorithms.mba:MBA",
            plans=False,
            defaults={**_OFF_POLICY_BUDGET, "num_steps": 2400},
        ),
        "sac": Row(
            "no model at all: soft actor-critic, the baseline",
            "bayes_mbrl.algorithms.sac:SAC",
            plans=False,
            learns_model=False,
            defaults={**_OFF_POLICY_BUDGET, "num_steps": 10_000},
        ),
        "dyna": Row(
            "Q-learning in tables on real steps and on a counted model of them (Dyna-Q): no p(θ|D), countable states",
            "bayes_mbrl.algorithms.dyna:Dyna",
            plans=False,
            learns_model=False,
            defaults={"num_episodes": 100, "num_base_steps": 0, "num_evaluation_episodes": 20},
        ),
    },
)

POSTERIORS = Table(
    default="mean-field",
    runtime=frozenset({"model", "x", "y", "generator", "warm_start"}),
    rows={
        "point": Row(
            "one best θ, maximum likelihood: no epistemic uncertainty, the baseline",
            "bayes_mbrl.inference.point:fit",
            ("bayes_mbrl.inference.draws:DrawsPosterior",),
        ),
        "mean-field": Row(
            "independent normals over the weights, fitted to the ELBO by Pyro (Bayes by backprop)",
            "bayes_mbrl.inference.svi:fit",
            ("bayes_mbrl.inference.svi:MeanFieldPosterior",),
            # Bayes is kl_weight 1: correct, but it learns more slowly from the first few hundred transitions.
            settings={"kl_weight": 0.3, "learning_rate": 0.01},
            defaults={"dynamics": {"hidden": [50, 50]}},
        ),
        "ensemble": Row(
            "several networks, each from its own start and on its own bootstrap of the data (PETS)",
            "bayes_mbrl.inference.ensemble:fit",
            ("bayes_mbrl.inference.draws:DrawsPosterior",),
            settings={"prior_weight": 0.1},
            defaults={"dynamics": {"hidden": [100, 100]}, "rollout": {"num_theta": 5}},
        ),
        "mc-dropout": Row(
            "one network with dropout masks that stay on: each mask is a sample of θ",
            "bayes_mbrl.inference.dropout:fit",
            ("bayes_mbrl.inference.dropout:DropoutPosterior",),
            settings={"rate": 0.01, "kl_weight": 0.1},
            defaults={"dynamics": {"hidden": [100, 100]}},
            requires={"dynamics": "network"},  # hidden units to drop
        ),
        "low-rank": Row(
            "a normal over all weights with a few directions in which they are known together, fitted by Pyro",
            "bayes_mbrl.inference.low_rank:fit",
            ("bayes_mbrl.inference.low_rank:LowRankPosterior",),
            settings={"kl_weight": 0.3, "learning_rate": 0.01},
            defaults={"dynamics": {"hidden": [50, 50]}},
        ),
        "concrete-dropout": Row(
            "dropout masks whose rates are learned: the fewer the data, the more is dropped",
            "bayes_mbrl.inference.concrete_dropout:fit",
            ("bayes_mbrl.inference.dropout:DropoutPosterior",),
            settings={"kl_weight": 0.1},
            defaults={"dynamics": {"hidden": [100, 100]}},
            requires={"dynamics": "network"},  # hidden units to drop
        ),
        "laplace": Row(
            "a normal at the best θ by the curvature there, over the network's last layer or all parameters",
            "bayes_mbrl.inference.laplace:fit",
            ("bayes_mbrl.inference.laplace:LaplacePosterior",),
            defaults={"dynamics": {"hidden": [50, 50]}},
        ),
        "sghmc": Row(
            "chains of stochastic-gradient Hamiltonian Monte Carlo, K of them in one batched pass",
            "bayes_mbrl.inference.sghmc:fit",
            ("bayes_mbrl.inference.draws:DrawsPosterior",),
            defaults={"dynamics": {"hidden": [50, 50]}},
        ),
        "nuts": Row(
            "draws from the posterior itself by NumPyro's no-U-turn sampler: the reference, for small networks",
            "bayes_mbrl.inference.nuts:fit",
            ("bayes_mbrl.inference.draws:DrawsPosterior",),
            # About a minute on the first 200 transitions of Pendulum-v1, ten seconds of it for compiling.
            settings={"num_warmup": 200, "num_draws": 100},
            defaults={"dynamics": {"hidden": [16]}},
        ),
        "exact-linear": Row(
            "the exact posterior of Bayesian linear regression, in closed form; needs dynamics linear",
            "bayes_mbrl.inference.exact_linear:fit",
            ("bayes_mbrl.inference.exact_linear:ExactLinearPosterior",),
            defaults={"dynamics": "linear"},
            requires={"dynamics": "linear"},
        ),
    },
)

DYNAMICS = Table(
    default="network",
    runtime=frozenset({"transitions", "features", "learns_reward", "learns_termination"}),
    trial=_trial_transitions,
    rows={
        "network": Row(
            "a neural network for the change of state, with learned noise",
            "bayes_mbrl.dynamics.network:NetworkDynamics.from_data",
            # A few hundred transitions do not teach a noise below a few per cent of the change of state.
            settings={"min_std": 0.03},
        ),
        "linear": Row(
            "s' linear in state and action with Gaussian noise",
            "bayes_mbrl.dynamics.linear:LinearDynamics.from_data",
        ),
        "physics": Row(
            "a few unknown parameters of known physics: a built-in system or a function of your own",
            "bayes_mbrl.dynamics.physics:PhysicsDynamics.from_data",
            # A handful of parameters needs no tempering, and far longer steps than a network's weights.
            defaults={
                "posterior": {
                    "kl_weight": 1.0,
                    "prior_weight": 1.0,
                    "learning_rate": 0.1,
                    "num_particles": 4,
                    "average_last": 0.25,
                }
            },
        ),
    },
)

PLANNERS = Table(
    default="cem",
    runtime=frozenset({"low", "high", "choices"}),
    trial=_trial_bounds,
    rows={
        "random-shooting": Row(
            "many random plans, the best one wins",
            "bayes_mbrl.planners.random_shooting:RandomShooting",
            discrete="bayes_mbrl.planners.discrete:DiscreteShooting",
        ),
        "cem": Row(
            "the cross-entropy method: refit a normal to the best plans, again and again",
            "bayes_mbrl.planners.cem:CEM",
            discrete="bayes_mbrl.planners.discrete:CategoricalCEM",
            # Enough with a warm start from step to step; the class's own defaults search one plan thoroughly.
            settings={"horizon": 20, "num_candidates": 100, "num_elites": 10, "num_iterations": 3},
        ),
        "icem": Row(
            "CEM with noise that lasts over time, elites that compete again, and ever fewer candidates",
            "bayes_mbrl.planners.icem:ICEM",
            discrete="bayes_mbrl.planners.discrete:CategoricalCEM",
            settings={"horizon": 20, "num_candidates": 100, "num_elites": 10, "num_iterations": 3, "decay": 1.25},
        ),
        "mppi": Row(
            "path integrals: the mean of all candidates, weighted by the exponential of their scores",
            "bayes_mbrl.planners.mppi:MPPI",
            settings={
                "horizon": 20,
                "num_candidates": 100,
                "num_iterations": 3,
                "temperature": 0.3,
                "decay": 0.7,
                "smoothing": 0.6,
            },
        ),
        "gradient": Row(
            "gradient ascent by backpropagation through the rollout, from several starts",
            "bayes_mbrl.planners.gradient:GradientAscent",
            settings={"horizon": 20, "num_candidates": 4, "num_iterations": 10},
        ),
        "ilqr": Row(
            "iLQR on the expected dynamics: second order, by Riccati sweeps; blind to every spread",
            "bayes_mbrl.planners.ilqr:ILQR",
            settings={"horizon": 20, "num_candidates": 4, "num_iterations": 5, "tolerance": 1e-3},
            defaults={"propagation": "expectation"},
            requires={"objective": "mean", "propagation": "expectation"},
        ),
        "exhaustive": Row(
            "all plans there are, for actions that are choices and a short horizon",
            "bayes_mbrl.planners.discrete:ExhaustiveSearch",
            discrete="bayes_mbrl.planners.discrete:ExhaustiveSearch",
        ),
    },
)

OBJECTIVES = Table(
    default="mean",
    trial=dict,
    rows={
        "mean": Row(
            "the expected return over θ and noise: neutral to risk", "bayes_mbrl.planners.objectives:expected_return"
        ),
        "mean-minus-epistemic-std": Row(
            "mean minus a multiple of the spread over θ: avoids what the model does not know",
            "bayes_mbrl.planners.objectives:mean_minus_epistemic_std",
            settings={"risk_aversion": 1.0},
            defaults={"rollout": {"num_noise": 2}},  # with 1, noise cannot be told from ignorance
            about_theta=True,
        ),
        "mean-minus-total-std": Row(
            "mean minus a multiple of the spread over θ and noise together",
            "bayes_mbrl.planners.objectives:mean_minus_total_std",
            settings={"risk_aversion": 1.0},
        ),
        "lower-tail-mean": Row(
            "the mean of the worst share of all outcomes (CVaR)",
            "bayes_mbrl.planners.objectives:lower_tail_mean",
            settings={"tail_mass": 0.1},
        ),
        "upper-tail-mean": Row(
            "the mean of the best share of all outcomes: optimism, for exploring",
            "bayes_mbrl.planners.objectives:upper_tail_mean",
            settings={"tail_mass": 0.1},
        ),
        "mean-plus-epistemic-std": Row(
            "mean plus a multiple of the spread over θ: seeks what the model does not know",
            "bayes_mbrl.planners.objectives:mean_plus_epistemic_std",
            settings={"optimism": 1.0},
            defaults={"rollout": {"num_noise": 2}},  # with 1, noise cannot be told from ignorance
            about_theta=True,
        ),
        "entropic": Row(
            "the certainty equivalent of exponential utility: averse to spread, the worst outcomes count most",
            "bayes_mbrl.planners.objectives:entropic",
            settings={"risk_aversion": 0.1},
        ),
        "failure-limit": Row(
            "the mean, with a price on plans that fail (see objective.failure) more often than max_probability",
            "bayes_mbrl.planners.objectives:mean_with_failure_limit",
            settings={"failure_return": 0.0, "max_probability": 0.05, "penalty": 1e4},
        ),
        "worst-theta": Row(
            "the expected return under the worst θ that was drawn",
            "bayes_mbrl.planners.objectives:worst_theta",
            defaults={"rollout": {"num_noise": 2}},  # with 1, noise cannot be told from ignorance
            about_theta=True,
        ),
    },
)

PROPAGATIONS = Table(
    default="ts-infinity",
    has_settings=False,
    rows={
        "ts-infinity": Row(
            "TS∞: a particle keeps its θ over the whole horizon", "bayes_mbrl.planners.propagation:ts_infinity"
        ),
        "ts-1": Row(
            "TS1: a particle meets another θ in every step",
            "bayes_mbrl.planners.propagation:ts_1",
            mixes_theta=True,
        ),
        "expectation": Row(
            "E: all particles go on from the mean next state",
            "bayes_mbrl.planners.propagation:expectation",
            mixes_theta=True,
        ),
        "distribution-sampling": Row(
            "DS: particles of one θ are drawn anew from their own normal in every step; needs rollout.num_noise >= 2",
            "bayes_mbrl.planners.propagation:distribution_sampling",
            defaults={"rollout": {"num_noise": 2}},
            at_least={"num_noise": 2},
        ),
        "moment-matching": Row(
            "MM: all particles are drawn anew from one normal with their mean and spread in every step",
            "bayes_mbrl.planners.propagation:moment_matching",
            mixes_theta=True,
        ),
    },
)

RECALIBRATIONS = Table(
    default="none",
    trial=dict,
    rows={
        "none": Row(
            "predictions as the posterior makes them, fitted to all transitions",
            "bayes_mbrl.dynamics.recalibrated:NoRecalibration",
        ),
        "quantile": Row(
            "noise mapped so that held-out outcomes fall where they were predicted to; θ is fitted to the rest",
            "bayes_mbrl.dynamics.recalibrated:QuantileRecalibration",
        ),
    },
)

SECTIONS: Mapping[str, Table] = {
    "algorithm": ALGORITHMS,
    "posterior": POSTERIORS,
    "dynamics": DYNAMICS,
    "planner": PLANNERS,
    "objective": OBJECTIVES,
    "propagation": PROPAGATIONS,
    "recalibration": RECALIBRATIONS,
}
"""The tables by the name of their section, in the order in which choices are made."""
