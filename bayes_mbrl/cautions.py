"""What a configuration asks for that cannot mean what its words say: told at the start of a run, not refused."""

from bayes_mbrl.config import Config, resolve
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.registry import SECTIONS


def cautions(config: Config) -> list[str]:
    """One sentence for each; none for most configurations."""
    if not config.algorithm.row.learns_model:
        return _unused(config, [section for section in SECTIONS if section != "algorithm"])
    objective, exploration = config.objective, config.algorithm.settings.get("exploration", "none")
    found = []
    if not config.algorithm.row.plans:
        found += _unused(config, ["planner", "objective"])
    elif objective.row.about_theta or objective.settings.get("over") == "theta":
        found += _about_theta(f"objective {objective.name}", config)
        if exploration in ("thompson", "hallucinated"):
            found.append(
                f"objective {objective.name} compares samples of θ, and algorithm.exploration {exploration} plans "
                "training episodes with one: there it is the mean"
            )
    if objective.name == "failure-limit" and config.planner.name == "gradient":
        found.append(
            "planner gradient does not see the price that objective failure-limit puts on failing, whose slope is 0: "
            "it only chooses by it between its restarts; take a planner by scores, like cem"
        )
    if exploration == "hallucinated":
        found += _hallucinated(config)
    if config.dynamics.name == "linear" and find_spec(config.env).termination is None:
        found.append(
            f"dynamics linear learns no termination, and that of {config.env} is not known: no plan ends early; give "
            "its EnvironmentSpec a termination function, or take dynamics=network"
        )
    if exploration != "none" and config.posterior.name == "point":
        found.append(
            f"algorithm.exploration {exploration} goes where samples of θ disagree, and posterior point has one only: "
            "it will explore nothing; take another posterior"
        )
    return found


def _unused(config: Config, sections: list[str]) -> list[str]:
    """What was chosen or set in these sections, which the algorithm does without."""
    chosen = {section: getattr(config, section).name for section in SECTIONS}
    environment = {"env": config.env, "algorithm": chosen["algorithm"]}
    usual, same_names = resolve(options=environment), resolve(options={**environment, **chosen})
    unused = [
        section
        for section in sections
        if getattr(usual, section).name != chosen[section]
        or getattr(same_names, section).settings != getattr(config, section).settings
    ]
    if not config.algorithm.row.learns_model and config.rollout != same_names.rollout:
        unused.append("rollout")
    if not unused:
        return []
    what = "this" if len(unused) == 1 else "these"
    return [
        f"algorithm {chosen['algorithm']} does without {' and '.join(unused)}: what is set of {what} changes nothing"
    ]


def _hallucinated(config: Config) -> list[str]:
    """Settings that the extended plans do without."""
    rollout, dropped = config.rollout, []
    if config.propagation.name != "ts-infinity":
        dropped.append(f"propagation {config.propagation.name}")
    if rollout.bf16:
        dropped.append("rollout.bf16")
    if rollout.finalists < 1:
        dropped.append("rollout.finalists")
    if not dropped:
        return []
    return [
        "algorithm.exploration hallucinated plans training episodes with one dynamics made of all θ: "
        f"{' and '.join(dropped)} will count in evaluation only"
    ]


def _about_theta(who: str, config: Config) -> list[str]:
    rollout, propagation, found = config.rollout, config.propagation.name, []
    if config.propagation.row.mixes_theta:
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
