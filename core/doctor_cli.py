"""sdps-doctor: what this machine has, what sdps can do with it, and how to mend what is missing."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly, version_printer

app = new_app()


@app.command(cls=Command)
@failing_clearly
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Look only; do not derain a small picture.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("sdps-doctor"), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Say what this machine has, what sdps can do with it, and how to mend what is missing.

    Exit code 0 if pictures can be derained here, 1 if not. Names no user and shows no environment
    variable, so that its output can go into a bug report.
    """
    from rich.console import Console

    from sdps.core.doctor import examine, judge
    from sdps.core.doctor_view import show

    with Console(stderr=True).status("Looking at this machine ..."):
        report = judge(examine(run=not no_run))
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show(report, Console(soft_wrap=False, highlight=False))
    if not report.works:
        raise typer.Exit(1)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
