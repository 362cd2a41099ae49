import itertools
from typing import get_args

import torch

from bayes_mbrl.seeding import Stream, generator_for, stream_seed

STREAMS: tuple[Stream, ...] = get_args(Stream)


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    """Written down once: a resumed run draws in another process what this one would have drawn."""
    assert stream_seed(0, "environment", 0) == 4411535760865700138
    assert stream_seed(3, "acting", 7) == 4182545863600517528


def test_seed_stream_and_index_each_make_another_seed() -> None:
    seeds = [stream_seed(*key) for key in itertools.product((0, 1, 2**32, 2**40 + 1), STREAMS, range(50))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_starts_anew_at_its_stream() -> None:
    first, again = (torch.randn(5, generator=generator_for(1, "acting", 2)) for _ in range(2))
    assert torch.equal(first, again)


def test_streams_and_their_indices_are_uncorrelated() -> None:
    keys = [*((stream, 0) for stream in STREAMS), *(("acting", index) for index in (1, 2, 3))]
    draws = torch.stack([torch.randn(10_000, generator=generator_for(0, *key), dtype=torch.float64) for key in keys])
    correlation = torch.corrcoef(draws) - torch.eye(len(keys), dtype=torch.float64)
    assert correlation.abs().max() < 5 / 100
