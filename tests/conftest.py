"""A strict session: one torch thread, and no test may move a global random state."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# A job in the background of a shell ignores Ctrl-C, and so would every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _global_random_state_stays_put() -> Iterator[None]:
    """Fail when a test moved the global random state of torch, NumPy or Python: all randomness is an argument here."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "the global random state of torch moved"
    assert np.array_equal(before[1], np.random.get_state()[1]), "the global random state of NumPy moved"  # noqa: NPY002
    assert before[2] == random.getstate(), "the global random state of Python moved"


@pytest.fixture
def generator() -> torch.Generator:
    """A generator that starts anew for every test."""
    return torch.Generator().manual_seed(0)
