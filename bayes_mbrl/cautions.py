"""What a configuration asks for that cannot mean what its words say: told at the start of a run, not refused."""

from bayes_mbrl.config import Config
from bayes_mbrl.registry import OBJECTIVES, PROPAGATIONS


def cautions(config: Config) -> list[str]:
    """One sentence for each; none for most configurations."""
    objective, exploration = config.objective, config.algorithm.settings.get("exploration", "none")
    found = []
    if OBJECTIVES.rows[objective.name].about_theta or objective.settings.get("over") == "theta":
        found += _about_theta(f"objective {objective.name}", config)
    if exploration != "none" and config.posterior.name == "point":
        found.append(
            f"algorithm.exploration {exploration} goes where samples of θ disagree, and posterior point has one only: "
            "it will explore nothing; take another posterior"
        )
    return found


def _about_theta(who: str, config: Config) -> list[str]:
    rollout, propagation, found = config.rollout, config.propagation.name, []
    if PROPAGATIONS.rows[propagation].mixes_theta:
        found.append(
            f"{who} compares samples of θ, and propagation {propagation} mixes them between steps: what it finds is "
            "not ignorance; take propagation=ts-infinity"
        )
    if config.posterior.name == "point" or rollout.num_theta == 1:
        one = "posterior point" if config.posterior.name == "point" else "rollout.num_theta 1"
        found.append(f"{who} compares samples of θ, and with {one} there is one: it is the mean")
    elif rollout.num_noise == 1:
        found.append(f"{who} takes noise for ignorance, since rollout.num_noise is 1: take 2 or more")
    return found
