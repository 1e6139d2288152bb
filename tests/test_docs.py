"""The documents tell the truth: commands, flags, files and links in them exist."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "sdps-export": "export.cli",
    "sdps-run": "runtime.cli",
    "sdps-bench": "benchmarks.cli",
    "sdps-train": "training.cli",
    "sdps-eval": "training.eval_cli",
    "sdps-doctor": "core.doctor_cli",
}


@functools.cache
def help_of(*how: str) -> str:
    """What `python HOW --help` prints."""
    environment = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *how, "--help"], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


def wrong_flags(use: str, help_text: str) -> list[str]:
    """Flags in a use of a command that its help does not know."""
    flags = re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", use)
    return [flag for flag in flags if not re.search(rf"{flag}(?![a-z0-9-])", help_text)]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    code = "from sdps.{} import main; main()"
    return {command: help_of("-c", code.format(module)) for command, module in COMMANDS.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_flag_that_is_shown_exists(document: Path, helps: dict[str, str]) -> None:
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        for command, help_text in helps.items():
            for use in re.findall(rf"{command}\b([^`|;&\n]*)", line):
                wrong = wrong_flags(use, help_text)
                assert not wrong, f"{document.name}: {command} has no {wrong}"
        for module, use in re.findall(r"python3? -m (sdps[\w.]*)([^`|;&\n]*)", line):
            if "--" in use:
                wrong = wrong_flags(use, help_of("-m", module))
                assert not wrong, f"{document.name}: {module} has no {wrong}"


def test_a_wrong_flag_is_found() -> None:
    told = help_of("-m", "sdps.benchmarks.pipeline")
    assert wrong_flags("--wait-ms 33 --wait 3 --frames 60 --no-such", told) == ["--wait", "--no-such"]


@pytest.mark.parametrize("module", COMMANDS.values())
def test_options_that_take_a_fraction_are_called_as_their_parameters(module: str) -> None:
    """By the parameter NaN is refused (core/console.py)."""
    command: Any = typer.main.get_command(importlib.import_module(f"sdps.{module}").app)
    fractions = [option for option in command.params if "float" in option.type.name]
    assert all(f"--{option.name.replace('_', '-')}" in option.opts for option in fractions)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_file_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text) + re.findall(
        r'src="(?!https?:)([^"]+)"', text
    )
    for link in links:
        assert (document.parent / link).exists(), f"{document.name}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_module_that_is_run_exists(document: Path) -> None:
    for module in re.findall(r"python3? -m (sdps[\w.]*)", document.read_text(encoding="utf-8")):
        assert (ROOT / (module.removeprefix("sdps.").replace(".", "/") + ".py")).is_file(), module


@pytest.mark.parametrize("command", COMMANDS)
def test_the_promised_names_stay(command: str, helps: dict[str, str]) -> None:
    promised = {
        "sdps-export": ["--out", "--precision", "--fp16", "--int8", "--size", "--engine"],
        "sdps-run": ["--camera", "--input", "--output", "--model"],
        "sdps-bench": [],
        "sdps-train": ["--photos", "--preset", "--budget", "--out"],
        "sdps-eval": ["--protocol", "--json", "--out"],
        "sdps-doctor": ["--json", "--no-run"],
    }[command]
    for flag in [*promised, "--help"]:
        assert flag in helps[command]
