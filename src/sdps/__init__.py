"""sdps: SD-PSFNet image deraining, from a PyTorch checkpoint to a live camera.

>>> from sdps import Derainer
>>> clean = Derainer.load()(rainy)  # rainy, clean: (H, W, 3) uint8 RGB
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdps.core import telemetry
from sdps.core.version import __version__

if TYPE_CHECKING:
    from sdps.runtime.derainer import Derainer

__all__ = ["Derainer", "__version__"]

telemetry.switch_off()


def __getattr__(name: str) -> Any:
    # Lazy, so that `import sdps` costs nothing and `--help` answers at once.
    if name == "Derainer":
        from sdps.runtime.derainer import Derainer

        return Derainer
    raise AttributeError(f"module 'sdps' has no attribute {name!r}")
