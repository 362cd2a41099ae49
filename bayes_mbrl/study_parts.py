"""What several studies begin with: data of the base policy, and a model learned from them."""

import torch

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.seeding import generator_for, stream_seed


def episodes(builder: Builder, agent: Agent, num_episodes: int, *, seed: int, first: int = 0) -> Transitions:
    """Episodes of the agent, numbered from `first` on; other numbers are other episodes."""
    return Transitions.concatenate(
        [
            run_episode(
                builder.environment,
                agent,
                number=number,
                seed=stream_seed(seed, "environment", number),
                generator=generator_for(seed, "acting", number),
            ).transitions
            for number in range(first, first + num_episodes)
        ]
    )


def learned(builder: Builder, transitions: Transitions, *, seed: int) -> tuple[Posterior, Dynamics]:
    """p(θ | these transitions), as configured, and the dynamics θ belongs to."""
    torch.set_num_threads(1)
    posterior, _ = builder.fit(transitions, None, generator=generator_for(seed, "inference", len(transitions)))
    return posterior, builder.learned_dynamics(transitions, posterior)
