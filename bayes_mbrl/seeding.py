"""One seed, many independent named streams.

A stream's generator depends on the seed, the stream's name and an index (the episode) and on nothing else: a change
in the number of plans does not change the environment's noise, and a resumed run needs no saved generator state.
"""

import zlib
from typing import Literal

import numpy as np
import torch

Stream = Literal[
    "environment",
    "acting",
    "inference",
    "recalibration",
    "exploration",
    "initial",
    "learning",
    "improving",
    "evaluation-environment",
    "evaluation-acting",
    "report",
]
"""What draws random numbers: start states and noise of the real system, actions and plans, fits, and what an algorithm
learns beside (its start, after each step, after each fit); and the same apart for evaluation, so that its start states
are not those of training."""


def stream_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """A 63-bit seed for one stream of a run, independent of all others (NumPy's SeedSequence spawn keys)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), index))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_for(seed: int, stream: Stream, index: int = 0, *, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator at the start of the stream `stream` number `index` of the run with this seed."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream, index))
