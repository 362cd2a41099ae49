"""The settings of a function or class, read off its signature: names, types, bounds and defaults stand there alone."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pydantic


def settings_model(
    target: Callable[..., Any],
    *,
    without: Collection[str],
    defaults: Mapping[str, Any],
    config: pydantic.ConfigDict,
) -> type[pydantic.BaseModel]:
    """A pydantic model with one field for every parameter of `target` that is not in `without`.

    Bounds in an annotation, as in `Annotated[int, Gt(0)]`, bind. `defaults` replace those of the signature; a parameter
    without either is a required field. Raises TypeError for a parameter that has no annotation or takes any number
    of arguments, and for defaults that belong to no parameter.
    """
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(target, eval_str=True).parameters.items():
        if name in without:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"the settings of {target} cannot be read: write {parameter} out")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"the setting {name} of {target} has no annotation")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (parameter.annotation, pydantic.Field(defaults.get(name, default), validate_default=True))
    if strangers := defaults.keys() - fields.keys():
        raise TypeError(f"{target} has no settings {', '.join(sorted(strangers))}, but the registry gives defaults")
    settings: type[pydantic.BaseModel] = pydantic.create_model("settings", __config__=config, **fields)
    return settings
