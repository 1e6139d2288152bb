"""How the commands speak: one console, one way to fail.

Results go to standard output, talk and progress to standard error, so that pipes stay clean.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, Any, TextIO, TypeVar, cast

from sdps.core.cache import home_folder
from sdps.core.errors import MissingDependency, SdpsError, UsageError
from sdps.core.version import __version__

Command = TypeVar("Command", bound=Callable[..., Any])

# Windows has no SIGHUP, which comes where a terminal or an SSH session is closed.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

EXTRA_OF = {
    "cv2": "camera",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "httpx": "export",
    "filelock": "export",
    "torch": "export",
    "skimage": "bench",
    "pygame": "window",
    "tensorrt_rtx": "rtx",
}


def need(module: str, extra: str = "") -> ModuleType:
    """Imports an optional package, or says which extra brings it. Signals wait until it is in.

    Raises:
        MissingDependency: it is not installed, its shared libraries do not load, or it raises something.
    """
    try:
        with _unbroken():
            return importlib.import_module(module)
    except ImportError as error:
        extra = extra or EXTRA_OF.get(module.split(".")[0], "dev")
        raise MissingDependency(
            f"{module} cannot be imported ({error}).", f"Install it with: pip install 'sdps[{extra}]'"
        ) from error
    except Exception as error:  # OpenVINO's telemetry asks for a home folder, which not every user has
        mend = "Look at it with: sdps-doctor" if home_folder() else "Give it a home folder: export HOME=/tmp"
        raise MissingDependency(
            f"{module} cannot be imported ({type(error).__name__}: {error}).", mend
        ) from error


@contextmanager
def _unbroken() -> Iterator[None]:
    """Holds back the signals that end a command: where one breaks into a library that is being loaded, C++
    code may abort the process, and Python code may fail in ways that tell of anything but a signal."""
    told: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING):
            if callable(signal.getsignal(number)):  # where it is the default's, the process is gone at once
                before[number] = signal.signal(number, lambda number, frame: told.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told:
            signal.raise_signal(told[0])


def version_printer(command: str) -> Callable[[bool], None]:
    """The callback of a command's --version."""

    def show(asked: bool) -> None:
        if asked:
            import typer

            typer.echo(f"{command} {__version__}")
            raise typer.Exit

    return show


def _refuse_nan(options: Mapping[str, Any]) -> None:
    """NaN passes every bound, as it compares with nothing; and no option means it."""
    for name, value in options.items():
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"--{name.replace('_', '-')} nan is no number.", "Give one.")


class Heard:
    """Standard error, which may be gone: where a terminal is closed nobody listens, and the work goes on."""

    def __init__(self, file: IO[Any]) -> None:
        self.file = file

    @property
    def buffer(self) -> Heard:
        """Typer writes there where the stream's encoding is ASCII."""
        return Heard(cast(TextIO, self.file).buffer)

    def write(self, text: Any) -> int:
        with self._going_on():
            self.file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self.file.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EIO, errno.EPIPE):  # it does not come back
                # What it still holds would be written when Python ends, and make that a failure.
                with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
                    os.dup2(nowhere.fileno(), self.file.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def fill_standard_files() -> None:
    """Puts nothing in the place of standard files that are closed: what is opened would take their numbers,
    and whatever a library says would be written into it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode))
        else:
            if getattr(sys, name) is None:  # its number is another file's by now
                setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP (the terminal is closed; not with nohup) end what runs as Ctrl-C does, so that
    nothing temporary stays behind; a second one ends it at once. Yields a list that then holds the number.

    What handles them itself, as `sdps-run` and `sdps-train` do, takes them over meanwhile.
    """
    told: list[int] = []
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked process, which has nothing to clear up
            os.kill(os.getpid(), number)
            return
        told.append(number)
        raise KeyboardInterrupt

    numbers = ENDING if threading.current_thread() is threading.main_thread() else ()
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield told
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def failing_clearly(command: Command) -> Command:
    """Turns an SdpsError of a command into one line on standard error and its exit code; Ctrl-C, SIGTERM and
    SIGHUP end it with 130, 143 and 129. Standard error that is gone or closed ends nothing."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        told: list[int] = []
        fill_standard_files()
        with contextlib.redirect_stderr(cast(TextIO, Heard(sys.stderr))):
            try:
                with _terminable() as told:
                    _refuse_nan(kwargs)
                    return command(*args, **kwargs)
            except SdpsError as error:
                from rich.console import Console

                Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]error:[/]", end=" ")
                sys.stderr.write(f"{error}\n")
                sys.exit(error.exit_code)
            except KeyboardInterrupt:
                sys.stderr.write("terminated\n" if told else "interrupted\n")
                sys.exit(128 + (told[0] if told else signal.SIGINT))

    return wrapped  # type: ignore[return-value]
