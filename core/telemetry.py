"""What the libraries below would tell their makers, switched off: a camera's computer talks to nobody."""

from __future__ import annotations

import os
import sys


def switch_off() -> None:
    """Has to come before those libraries are loaded; what the user has set himself stays.

    ONNX Runtime 1.29 and newer sends events to Microsoft from Linux, too (graphs' names and hashes among
    them), unless ORT_DISABLE_TELEMETRY says no. OpenVINO tells Google Analytics of each start through a
    package of its own; a stub of its stands in where that cannot be imported. Both write an identifier into
    the home folder. albumentations asks PyPI for a newer version of itself each time.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
