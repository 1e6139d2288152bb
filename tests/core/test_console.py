"""How a command says that a package is not there, or is and breaks; that an argument is empty; how a signal
ends it, and that a terminal which is gone does not."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdps.core.console import need
from sdps.core.errors import MissingDependency


def test_a_package_that_breaks_is_told_as_one_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"RuntimeError: no such luck.*sdps-doctor"):
        need("breaks_on_import")
    with pytest.raises(MissingDependency, match=r"pip install 'sdps\[dev\]'"):
        need("not_there_at_all")


SLOW_LIBRARY = """
import os, signal, time
os.kill(os.getpid(), signal.{name})
try:
    time.sleep(0.05)  # a handler that raises does it here, and this library tells it as something else
except BaseException:
    raise RuntimeError("cannot be imported")
loaded = True
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_waits_for_a_library_that_is_being_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / f"slow_{name}.py").write_text(SLOW_LIBRARY.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            need(f"slow_{name}")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert sys.modules[f"slow_{name}"].loaded
    assert need(f"slow_{name}").loaded


LONG = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
from pathlib import Path
from sdps.core.artifact import atomic_path
from sdps.core.console import failing_clearly

@failing_clearly
def command():
    with atomic_path(Path(sys.argv[1], "new", "a.bin")) as temporary:
        temporary.write_bytes(b"half")
        print("working", flush=True)
        time.sleep(60)

command()
"""


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated"), (signal.SIGINT, "interrupted")],
)
def test_a_signal_ends_a_command_and_leaves_nothing(number: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LONG, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (128 + number, f"{said}\n")
    assert not list(tmp_path.iterdir())


TALKING = """
import sys, time, typer
from pathlib import Path
from rich.console import Console
from rich.progress import track
from sdps.core.console import failing_clearly
from sdps.core.errors import SdpsError

@failing_clearly
def command(path):
    sys.stderr.write("begun\\n")
    while not path.with_name("gone").exists():
        time.sleep(0.01)
    for _ in track(range(3), console=Console(stderr=True)):
        typer.echo("half way", err=True)
        print("still there", file=sys.stderr, flush=True)
        time.sleep(0.2)
    path.write_text("done")
    if sys.argv[2]:
        raise SdpsError("It is over.", "Nobody hears this.")

command(Path(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no such terminals here")
@pytest.mark.parametrize(("fails", "set_too"), [("", {}), ("yes", {}), ("", {"PYTHONIOENCODING": "ascii"})])
def test_a_terminal_that_is_gone_does_not_end_the_work(
    fails: str, set_too: dict[str, str], tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", TALKING, str(tmp_path / "result")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | set_too
    with subprocess.Popen([*command, fails], stderr=theirs, start_new_session=True, env=env) as process:
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"begun")
        os.close(ours)
        (tmp_path / "gone").touch()
        assert process.wait(timeout=20) == (1 if fails else 0)
    assert (tmp_path / "result").read_text() == "done"


def test_no_standard_error_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    command = [sys.executable, "-c", TALKING, str(tmp_path / "result"), ""]
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], check=False, timeout=20)
    assert done.returncode == 0
    assert (tmp_path / "result").read_text() == "done"


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("export.cli", ["sdps-nano", "--int8", "--held-out", ""], "--held-out is empty"),
        ("training.cli", ["--qat=", "--budget", "1m"], "--qat is empty"),
        ("training.eval_cli", ["sdps-nano", ""], "An argument is empty"),
        ("runtime.cli", ["--input", "demo", "--model", ""], "--model is empty"),
        ("runtime.cli", ["--input=demo", ""], "An argument is empty"),
        ("runtime.cli", ["--input", "demo", "--", ""], "An argument is empty"),
        ("benchmarks.cli", [""], "An argument is empty"),
        ("core.doctor_cli", [""], "An argument is empty"),
    ],
)
def test_a_variable_that_is_not_set_is_never_the_working_folder(
    command: str, arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(importlib.import_module(f"sdps.{command}").app, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert said in result.stderr
