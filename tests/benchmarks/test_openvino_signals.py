"""A signal after a benchmark's graphs were let go: none may leave a freed core of OpenVINO behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc, os, signal, threading
import numpy as np
from sdps.benchmarks.integer_kernels import contenders
from sdps.benchmarks.rewrite_parts import plain_graph, runner

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
calls = [{opened} for _ in range(2)]
for call in calls:
    call()
del call

def let_go():
    while calls:
        calls.pop(0)
        gc.collect()

thread = threading.Thread(target=let_go)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
print(len(told))
"""


@pytest.mark.parametrize(
    "opened",
    [
        "contenders(16, 64, 1)['OpenVINO, FP32']",
        "runner(plain_graph('clip'), 'openvino', np.zeros((1, 3, 256, 256), np.float32))",
    ],
)
def test_a_signal_after_the_graphs_were_let_go(opened: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(opened=opened)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
