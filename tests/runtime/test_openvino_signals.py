"""A signal after a model was closed: OpenVINO must not leave a freed signal stack behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc, os, signal, threading
import numpy as np
from sdps import Derainer

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
loaded = [Derainer.load(provider="openvino") for _ in range(2)]
for derainer in loaded:
    derainer(np.zeros((64, 64, 3), np.uint8))
del derainer

def close():
    while loaded:
        loaded.pop(0).close()
    gc.collect()

{how}
os.kill(os.getpid(), signal.SIGTERM)
print(len(told))
"""


@pytest.mark.parametrize(
    "how", ["close()", "thread = threading.Thread(target=close); thread.start(); thread.join()"]
)
def test_a_signal_after_models_were_closed(how: str) -> None:
    """Closed as they were opened, and by another thread, as the guard does with a model that hung."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(how=how)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
