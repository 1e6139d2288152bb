"""Libraries, imported and questioned in child processes: one that crashes or hangs harms nobody."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import Any

SECONDS = 30.0
"""How long one library may take. A cold disk takes ten; a driver that hangs takes for ever."""

# The current folder goes from the path, as in installed commands: a stray onnx.py there is no package.
CODE = (
    "import sys; sys.path[:] = [part for part in sys.path if part];"
    " from sdps.core.child_probe import main; main(sys.argv[1:])"
)

Answer = dict[str, Any]
"""Of one library: 'error' if it failed, else 'version' and what `child_probe` found out."""


def ask(names: list[str], seconds: float = SECONDS) -> dict[str, Answer]:
    """Asks `child_probe` about each name. Never raises; what fails has the key 'error'.

    All share one process, which saves their starts. The one in which it dies or hangs is named,
    and the rest get another. What failed beside others is tried alone, because libraries can
    spoil each other's import (static TLS on ARM), which is no fault of the one that is named.
    """
    answers: dict[str, Answer] = {}
    left = list(names)
    while left:
        heard, how = _hear(left, seconds)
        answers |= heard
        left = [name for name in left if name not in heard]
        if left:
            answers[left[0]] = {"name": left[0], "error": how}
            left = left[1:]
    if len(names) > 1:
        failed = {name: answer["error"] for name, answer in answers.items() if "error" in answer}
        for name in [name for name, error in failed.items() if not error.startswith("hangs")]:
            answers |= ask([name], seconds)
    return answers


def _hear(names: list[str], seconds: float) -> tuple[dict[str, Answer], str]:
    """Answers of one child, and how it ended before the first name that has none."""
    environment = {**os.environ, "PYGAME_HIDE_SUPPORT_PROMPT": "1", "PYTHONFAULTHANDLER": ""}
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", CODE, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        return {}, f"no process could be started ({error.strerror})"
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    heard: dict[str, Answer] = {}
    try:
        while len(heard) < len(names):
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                return heard, f"hangs: no answer in {seconds:.0f} s"
            if line is None:
                return heard, _ending(child.wait(seconds))
            if answer := _parse(line):
                heard[answer["name"]] = answer
        return heard, ""
    finally:
        child.kill()
        child.wait()


def _parse(line: bytes) -> Answer | None:
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "name" in answer else None


def _ending(code: int) -> str:
    if code < 0:
        try:
            return f"crashes ({signal.Signals(-code).name})"
        except ValueError:
            return f"crashes (signal {-code})"
    return f"ends Python with exit code {code}"
