"""OpenCV, imported when it is needed, and silent: its warnings come beside our errors."""

from __future__ import annotations

import contextlib
from types import ModuleType

from sdps.core.console import need


def opencv() -> ModuleType:
    """The cv2 module.

    Raises:
        MissingDependency: it is not installed.
    """
    cv2 = need("cv2")
    with contextlib.suppress(AttributeError):  # old builds, JetPack's among them, have no such switch
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
