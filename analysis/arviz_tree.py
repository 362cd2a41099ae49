"""ArviZ's container: what was learned as one xarray DataTree that every tool of ArviZ reads, and its file.

`arviz_base` has one interface on ArviZ 0.x and 1.x; `arviz` itself has two, and is not imported here.
Axes: K draws, or chain and draw; N data.
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
Arrays: TypeAlias = Mapping[str, Array]

_OF_THE_POSTERIOR = ("posterior", "posterior_predictive", "log_likelihood", "sample_stats")
_OF_THE_PRIOR = ("prior", "prior_predictive")
_OF_THE_DATA = ("observed_data", "constant_data")


def posterior_tree(
    *,
    posterior: Arrays,
    posterior_predictive: Arrays | None = None,
    log_likelihood: Arrays | None = None,
    sample_stats: Arrays | None = None,
    prior: Arrays | None = None,
    prior_predictive: Arrays | None = None,
    observed_data: Arrays | None = None,
    constant_data: Arrays | None = None,
    chains: bool = False,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xarray.DataTree:
    """A tree with these groups, each a mapping from name to array; a group that is None or empty is left out.

    posterior, posterior_predictive, log_likelihood (nats) and sample_stats start with the axes of the draws: [K, ...],
    which becomes a single chain, or with `chains` [chain, draw, ...]. prior and prior_predictive are independent draws,
    [K', ...], always. observed_data and constant_data have none. By its name ArviZ pairs an observation with its
    predictions and its likelihood. Names of statistics are ArviZ's own: `diverging`, `energy`, `acceptance_rate`,
    `tree_depth`, `step_size`, `n_steps`, `lp`.

    dims {name: the axes after those of the draws} and coords {axis: labels}; axes without a name get one by ArviZ. The
    log-likelihood of a datum that is a vector may be one number: it has the first of the axes only.
    attributes stand at the root. Draws that are not finite stay, and the attribute `not_finite` counts them by name.
    Raises ValueError that names every array whose shape does not fit, and data that are not finite.
    """
    groups: dict[str, Arrays | None] = {
        "posterior": posterior,
        "posterior_predictive": posterior_predictive,
        "log_likelihood": log_likelihood,
        "sample_stats": sample_stats,
        "prior": prior,
        "prior_predictive": prior_predictive,
        "observed_data": observed_data,
        "constant_data": constant_data,
    }
    arrays = {
        group: {name: _numpy(array) for name, array in content.items()} for group, content in groups.items() if content
    }
    dims, coords = dict(dims or {}), dict(coords or {})
    _check(arrays, dims, coords, chains)
    labels = {  # a file takes plain text and numbers: `torch.__version__`, say, is a class of its own
        name: value if type(value) in (int, float) else str(value) for name, value in (attributes or {}).items()
    }
    if not_finite := _count_not_finite(arrays):
        labels["not_finite"] = not_finite
    for group in (*_OF_THE_POSTERIOR, *_OF_THE_PRIOR):
        if group in arrays and not (chains and group in _OF_THE_POSTERIOR):
            arrays[group] = {name: array[np.newaxis] for name, array in arrays[group].items()}
    tree: xarray.DataTree = arviz_base.from_dict(
        arrays,
        coords={axis: np.asarray(values) for axis, values in coords.items()},
        dims={name: list(axes) for name, axes in dims.items()},
        attrs={"/": labels},
    )
    return tree


def pit_tree(pit: Arrays) -> xarray.DataTree:
    """Ranks of simulation-based calibration, {name: [R, ...]} in (0, 1), for `arviz_plots.plot_ecdf_pit`.

    They are in the group prior_sbc, the R replicates along `draw`. Raises ValueError where R differs.
    """
    arrays = {name: _numpy(values) for name, values in pit.items()}
    lengths = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(f"need pit [R, ...] with the same number of replicates, got {lengths}")
    tree: xarray.DataTree = arviz_base.from_dict({"prior_sbc": {name: a[np.newaxis] for name, a in arrays.items()}})
    return tree


def save_tree(tree: xarray.DataTree, path: pathlib.Path) -> None:
    """Write the tree as netCDF, whole or not at all. A person reads it by `arviz.from_netcdf`."""
    content = tree.to_netcdf(engine="h5netcdf")  # into memory: HDF5 crashes the process when a disk is full
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


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


def _count_not_finite(arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> str:
    """ "f: 12 of 400, ..." for all draws that are NaN or infinite."""
    counts = {
        f"{group}/{name}": (int((~np.isfinite(array)).sum()), array.size)
        for group, content in arrays.items()
        for name, array in content.items()
        if np.issubdtype(array.dtype, np.floating)
    }
    return ", ".join(f"{name}: {bad} of {size}" for name, (bad, size) in counts.items() if bad)


def _check(
    arrays: Mapping[str, Mapping[str, NDArray[Any]]],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Sequence[Any]],
    chains: bool,
) -> None:
    """Raise one ValueError that names everything that does not fit."""
    problems = []
    sizes: dict[str, tuple[int, str]] = {axis: (len(values), "its labels") for axis, values in coords.items()}
    for groups, num_axes, words in (
        (_OF_THE_POSTERIOR, 1 + chains, "[chain, draw, ...]" if chains else "[K, ...]"),
        (_OF_THE_PRIOR, 1, "[K', ...]"),
        (_OF_THE_DATA, 0, "no axes of draws"),
    ):
        leading: tuple[tuple[int, ...], str] | None = None
        for group in groups:
            for name, array in arrays.get(group, {}).items():
                where = f"{group}/{name} {list(array.shape)}"
                got = array.shape[:num_axes]
                leading = leading or (got, where)
                if len(got) < num_axes or 0 in got:
                    problems.append(f"{where} needs {words} and at least one draw")
                elif got != leading[0]:
                    problems.append(f"{where} has other draws than {leading[1]}")
                axes, rest = dims.get(name), array.shape[num_axes:]
                if axes is None:
                    continue
                if group == "log_likelihood":  # of a datum that is a vector it is one number
                    axes = axes[: len(rest)]
                if len(axes) != len(rest):
                    problems.append(f"{where} has {len(rest)} axes besides those of the draws, dims name {list(axes)}")
                    continue
                for axis, size in zip(axes, rest, strict=True):
                    known, by = sizes.setdefault(axis, (size, where))
                    if known != size:
                        problems.append(f"{where} has {size} along {axis}, {by} {known}")
    if problems:
        raise ValueError("the arrays of a posterior tree do not fit together: " + "; ".join(problems))
    for name, array in arrays.get("observed_data", {}).items():
        if num_bad := int((~np.isfinite(array)).sum()) if np.issubdtype(array.dtype, np.floating) else 0:
            raise ValueError(f"observed_data/{name} is NaN or infinite in {num_bad} of {array.size} numbers")
