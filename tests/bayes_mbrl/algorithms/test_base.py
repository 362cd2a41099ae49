import torch

from bayes_mbrl.algorithms.base import RandomAgent

LOW, HIGH = torch.tensor([-2.0, 0.5, -1e-3]), torch.tensor([1.0, 40.0, 3e-3])


def test_random_actions_are_uniform_within_unequal_bounds(generator: torch.Generator) -> None:
    agent = RandomAgent(LOW, HIGH)
    actions = torch.stack([agent.act(torch.zeros(1), None, generator=generator)[0] for _ in range(2000)])
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    share = ((actions - LOW) / (HIGH - LOW)).double().sort(dim=0).values
    distance = (share - (torch.arange(2000).double() + 0.5)[:, None] / 2000).abs().max()  # Kolmogorov–Smirnov
    assert distance < 2.7 / 2000**0.5  # as rare as 5 standard errors: 2 exp(−2 · 2.7²) ≈ 1e-6
    assert torch.corrcoef(actions.T).triu(1).abs().max() < 5 / 2000**0.5


def test_a_random_agent_remembers_nothing_and_repeats_itself_with_its_generator() -> None:
    agent = RandomAgent(LOW, HIGH)
    first, again = (agent.act(torch.zeros(1), None, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first[1] is None
    assert torch.equal(first[0], again[0])
