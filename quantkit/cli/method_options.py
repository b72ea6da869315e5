"""Which calibration method, and the options of each: from the registry of methods, on every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from quantkit.calibration.methods import METHODS, MethodOption
from quantkit.registry import suggest

__all__ = ["MethodChoice", "with_method_options"]


def _check(name: str) -> str:
    if name not in METHODS:
        raise typer.BadParameter(f"there is no calibration method {name!r}: {suggest(name, METHODS)}")
    return name


MethodChoice = Annotated[
    str,
    typer.Option(
        "--method",
        help="Calibration method: how the range of a tensor is chosen.",
        metavar=f"[{'|'.join(METHODS)}]",
        callback=_check,
    ),
]


def with_method_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that methods have of their own; it gets them as its argument `method_options`."""
    own = {option.name: _annotate(name, option) for name, method in METHODS.items() for option in method.options}

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        command(method_options={name: arguments.pop(name) for name in own}, **arguments)

    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "method_options":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
            for name, annotation in own.items()
        ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


def _annotate(method: str, option: MethodOption) -> Any:
    text = f"{option.help}, for --method {method} (default: {option.default})."
    return Annotated[type(option.default) | None, typer.Option(option.flag, help=text)]
