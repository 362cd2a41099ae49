"""Datasets of Minari that are on this machine, as transitions. Nothing is downloaded.

Source: Minari 0.5, an episode of T steps has T + 1 observations. Axes: N transitions, S state, A action, T steps.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import ActionSpace, action_bounds, action_choices, checked_spaces
from bayes_mbrl.environments.recorded import Recording
from bayes_mbrl.errors import UserError
from bayes_mbrl.planners.discrete import one_hot


def read_minari(dataset_id: str) -> Recording:
    """All episodes of a dataset, in its order; actions that are choices become one-hot vectors.

    An episode that was truncated is not marked: its last transition is as good as the others. Raises UserError when
    Minari is not installed, the dataset is not here or damaged, or has spaces or numbers that are not supported.
    """
    try:
        import minari
    except ImportError as error:
        raise UserError(
            f"there is no file or folder {dataset_id}, and to look for a Minari dataset of this name the package "
            f"minari is needed ({error}): pip install 'minari[hdf5]>=0.5.3'"
        ) from error
    try:
        dataset = minari.load_dataset(dataset_id, download=False)
        episodes = [_episode(dataset_id, number, data) for number, data in enumerate(dataset.iterate_episodes())]
        observations, actions = dataset.observation_space, dataset.action_space
        env = None if dataset.env_spec is None else dataset.env_spec.id
    except UserError:
        raise
    except FileNotFoundError as error:
        here = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise UserError(
            f"there is no file or folder {dataset_id}, and no Minari dataset of this name on this machine (there: "
            f"{here}); nothing is downloaded: minari download {dataset_id}"
        ) from error
    except Exception as error:  # a file from elsewhere may be damaged in any way
        raise UserError(f"cannot read the Minari dataset {dataset_id}: {type(error).__name__}: {error}") from error
    _, space = checked_spaces(dataset_id, observations, actions)
    low, high = action_bounds(space)
    try:
        parts = [_transitions(number, space, *arrays) for number, arrays in enumerate(episodes) if len(arrays[1])]
        transitions = Transitions.concatenate(parts)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the Minari dataset {dataset_id} cannot be used: {error}") from error
    return Recording(transitions, env, low, high, action_choices(space))


def _episode(dataset_id: str, number: int, data: Any) -> tuple[Any, Any, Any, Any]:
    """(observations, actions, rewards, terminations), the first with one row more than the others."""
    arrays = data.observations, data.actions, data.rewards, data.terminations
    if isinstance(arrays[0], np.ndarray) and len(arrays[0]) != len(arrays[2]) + 1:
        raise UserError(
            f"episode {number} of the Minari dataset {dataset_id} has {len(arrays[0])} observations and "
            f"{len(arrays[2])} rewards: need one observation more than rewards, the last state among them"
        )
    return arrays


def _transitions(
    number: int, space: ActionSpace, observations: Any, actions: Any, rewards: Any, terminations: Any
) -> Transitions:
    states = _rows(observations)
    return Transitions(
        states[:-1],
        _action_rows(space, actions),
        _rows(rewards).squeeze(1),
        states[1:],
        torch.from_numpy(np.array(terminations, dtype=bool)),
        torch.full((len(rewards),), number),
    )


def _action_rows(space: ActionSpace, actions: Any) -> Tensor:
    """[T, A]; choices are counted from the space's own start."""
    choices = action_choices(space)
    if not choices:
        return _rows(actions)
    start = np.asarray(getattr(space, "start", 0), dtype=np.int64).reshape(-1)
    chosen = np.asarray(actions, dtype=np.int64).reshape(len(actions), -1) - start
    if (chosen < 0).any() or (chosen >= np.array(choices)).any():
        raise ValueError(f"an action lies outside of {space}")
    return one_hot(torch.from_numpy(chosen), choices)


def _rows(values: Any) -> Tensor:
    """Any array [T, ...] as float32 [T, ·]."""
    array = np.array(values, dtype=np.float64)
    return torch.from_numpy(array).to(torch.float32).reshape(len(array), -1)
