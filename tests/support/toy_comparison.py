"""Made-up runs of a comparison, of which only the scores matter."""

from bayes_mbrl.comparison import Arm, Run


def run(env: str, method: str, seed: int, score: float, base: float | None = 0.0) -> Run:
    """A run with this score, after an episode of a base policy with that one."""
    bases = [] if base is None else [base]
    result = {"returns": [score - 1, score + 1], "base_returns": bases, "num_steps": 10}
    return Run(Arm({"env": env, "posterior": method}), seed, env, result)


def failed(env: str, method: str, seed: int, error: str = "it diverged") -> Run:
    """One that has no score."""
    return Run(Arm({"env": env, "posterior": method}), seed, env, None, error)
