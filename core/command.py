"""What the six commands have in common before they look at what they were asked for."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from sdps.core.console import failing_clearly
from sdps.core.errors import UsageError


def new_app() -> typer.Typer:
    """For one of the six: `-h` is `--help`, and no shell is taught to complete it."""
    return typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


class Command(TyperCommand):
    """A command that takes nothing empty: `--photos "$DIR"` with a variable that is not set would otherwise
    be the working folder, and `--qat ""` would train something else."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_empty(args)
        return super().parse_args(ctx, args)


@failing_clearly
def _refuse_empty(args: list[str]) -> None:
    for before, arg in zip(["", *args], args, strict=False):
        option, equals, value = arg.partition("=")
        if arg == "":  # of the option before it, unless that has its value already or ends the options
            option = before if before.strip("-") and before[0] == "-" and "=" not in before else "An argument"
        elif not (option.startswith("--") and equals and not value):
            continue
        raise UsageError(f"{option} is empty.", "Give it a value, or leave it out.")
