"""ArviZ's home: what was learned, as one xarray DataTree that every tool of ArviZ reads.

Function values come first, not weights: a network's weights have symmetries that make their R-hat and ESS misleading,
its predictions have not (Izmailov et al., What Are Bayesian Neural Network Posteriors Really Like?, 2021).
`arviz_base` has one interface on ArviZ 0.x and 1.x; `arviz` itself has two, and is not imported here.
Axes: K draws, or chain and draw; N transitions, S state, A action.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import arviz_base
import numpy as np
import xarray
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.analysis.atomic import atomic_file

Array: TypeAlias = Tensor | NDArray[Any]

OBSERVED = "next_state"
"""The observation's name in three groups: by it ArviZ pairs predictions, likelihood and data."""


def posterior_tree(
    *,
    function_mean: Array,
    function_std: Array,
    posterior_predictive: Array,
    log_likelihood: Array,
    states: Array,
    actions: Array,
    next_states: Array,
    environment: str,
    posterior_family: str,
    parameters: Mapping[str, Array] | None = None,
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    transition_index: Sequence[int] | None = None,
    versions: Mapping[str, str] | None = None,
) -> xarray.DataTree:
    """What a run learned, seen on N of its transitions; everything in the environment's units.

    posterior: f, sigma = mean and std of s' given θ_k [K, N, S], and `parameters`, few and named, {name: [K, ...]}.
    posterior_predictive: next_state, sampled s' [K, N, S].
    log_likelihood: next_state, log p(s'_i | s_i, a_i, θ_k) [K, N], in nats.
    observed_data: next_state [N, S]. constant_data: state [N, S], action [N, A].

    Either all draws have one leading axis K, which becomes a single chain (and R-hat, which compares chains, is NaN),
    or all have two, [chain, draw]. `transition_index` [N] says which transitions of the run these are. Environment,
    family and versions are attributes of the root. ArviZ's PIT wants a scalar: `loo_pit(tree.sel(state_dim="angle"))`.
    Raises ValueError naming every array whose shape does not fit.
    """
    draws = {"f": function_mean, "sigma": function_std, "posterior_predictive": posterior_predictive}
    draws |= {"log_likelihood": log_likelihood}
    if taken := draws.keys() & (parameters or {}).keys():
        raise ValueError(f"parameters cannot be called {', '.join(sorted(taken))}: rename them")
    draws |= parameters or {}
    data = {"state": states, "action": actions, OBSERVED: next_states}
    labels = {"transition": transition_index, "state_dim": state_names, "action_dim": action_names}

    draw_arrays = {name: _numpy(values) for name, values in draws.items()}
    data_arrays = {name: _numpy(values) for name, values in data.items()}
    _check_shapes(draw_arrays, data_arrays, {name: len(label) for name, label in labels.items() if label is not None})
    if draw_arrays["f"].ndim == 3:
        draw_arrays = {name: values[np.newaxis] for name, values in draw_arrays.items()}

    groups = {
        "posterior_predictive": {OBSERVED: draw_arrays.pop("posterior_predictive")},
        "log_likelihood": {OBSERVED: draw_arrays.pop("log_likelihood")},
        "posterior": draw_arrays,
        "observed_data": {OBSERVED: data_arrays.pop(OBSERVED)},
        "constant_data": data_arrays,
    }
    attributes = {"environment": environment, "posterior_family": posterior_family}
    attributes |= {f"version_{name}": str(version) for name, version in (versions or {}).items()}
    tree: xarray.DataTree = arviz_base.from_dict(
        groups,
        coords={name: np.asarray(label) for name, label in labels.items() if label is not None},
        dims={name: ["transition", "state_dim"] for name in ("f", "sigma", OBSERVED, "state")}
        | {"action": ["transition", "action_dim"]},
        attrs={"/": attributes},
    )
    return tree


def save_tree(tree: xarray.DataTree, path: pathlib.Path) -> None:
    """Write the tree as netCDF, whole or not at all. A person reads it by `arviz.from_netcdf`."""
    with atomic_file(path) as temporary:
        tree.to_netcdf(temporary, engine="h5netcdf")


def load_tree(path: pathlib.Path) -> xarray.DataTree:
    """Read what `save_tree` wrote into memory; the file is closed again.

    Raises FileNotFoundError when there is none, ValueError when it is damaged.
    """
    try:
        with xarray.open_datatree(path, engine="h5netcdf") as opened:
            return opened.load()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is not a complete netCDF file: {error}") from error


def _numpy(values: Array) -> NDArray[Any]:
    """The values as NumPy, wherever they lived and whether or not they carry gradients."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _check_shapes(
    draws: Mapping[str, NDArray[Any]], data: Mapping[str, NDArray[Any]], label_counts: Mapping[str, int]
) -> None:
    """Raise one ValueError that names every draw, datum and list of labels whose shape does not fit the rest."""
    next_state, action, mean = data[OBSERVED], data["action"], draws["f"]
    if next_state.ndim != 2 or action.ndim != 2 or mean.ndim not in (3, 4):
        raise ValueError(
            "need next_states [N, S], actions [N, A] and function_mean [K, N, S] or [chain, draw, N, S], got "
            f"{list(next_state.shape)}, {list(action.shape)} and {list(mean.shape)}"
        )
    leading, (num_transitions, num_states) = mean.shape[:-2], next_state.shape
    expected = dict.fromkeys(("f", "sigma", "posterior_predictive"), (*leading, num_transitions, num_states))
    expected |= {"log_likelihood": (*leading, num_transitions)}
    expected |= {"state": (num_transitions, num_states), "action": (num_transitions, action.shape[1])}
    counts = {"transition": num_transitions, "state_dim": num_states, "action_dim": action.shape[1]}

    arrays = {**draws, **data}
    problems = [
        f"{name} has shape {list(arrays[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if arrays[name].shape != shape
    ]
    problems += [
        f"parameter {name} has shape {list(values.shape)}, expected {list(leading)} and any further axes"
        for name, values in draws.items()
        if name not in expected and values.shape[: len(leading)] != leading
    ]
    problems += [
        f"{count} labels for {name}, expected {counts[name]}"
        for name, count in label_counts.items()
        if count != counts[name]
    ]
    if problems:
        raise ValueError("the arrays of a posterior tree do not fit together: " + "; ".join(problems))
