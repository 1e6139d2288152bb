"""Frames in, frames out: sources, backends, sinks and the pipeline between. No torch.

>>> from sdps.runtime import Derainer, Pipeline, open_sink, open_source
>>> Pipeline(open_source("rain.mp4"), Derainer.load(), open_sink("clean.mp4")).run()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdps.runtime.derainer import Derainer
    from sdps.runtime.pipeline import Pipeline
    from sdps.runtime.sinks import open_sink
    from sdps.runtime.sources import open_source

__all__ = ["Derainer", "Pipeline", "open_sink", "open_source"]
PLACES = {
    "Derainer": "derainer",
    "Pipeline": "pipeline",
    "open_sink": "sinks",
    "open_source": "sources",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing one part costs nothing of the others.
    if name in PLACES:
        return getattr(importlib.import_module(f"sdps.runtime.{PLACES[name]}"), name)
    raise AttributeError(f"module 'sdps.runtime' has no attribute {name!r}")
