"""What is asked of a library by importing it, in a process of its own (see `libraries`).

Prints one line of JSON for each library as soon as it is known, so that the parent can tell which
one hung or crashed. `main` gets the names; a name without a function below is only imported.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from typing import Any

ENCODERS = ("libx264", "libvpx-vp9", "h264_nvenc")


def _av(av: Any) -> dict[str, Any]:
    found = []
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except Exception:  # PyAV raises a class of its own for an unknown codec
            continue
        found.append(name)
    return {"encoders": found, "ffmpeg": ".".join(map(str, av.library_versions["libavcodec"]))}


def _pil(_: Any) -> dict[str, Any]:
    from PIL import Image, features  # noqa: F401 - the package itself loads none of its libraries

    parts = ("jpg", "zlib", "webp", "libtiff", "freetype2")
    return {"lacks": [part for part in parts if not features.check(part)]}


def _cv2(cv2: Any) -> dict[str, Any]:
    match = re.search(r"GStreamer:\s*(YES|NO)", cv2.getBuildInformation())
    return {"gstreamer": bool(match and match[1] == "YES")}


def _onnxruntime(ort: Any) -> dict[str, Any]:
    return {"providers": ort.get_available_providers()}


def _openvino(ov: Any) -> dict[str, Any]:
    core = ov.Core()
    return {
        "devices": [
            f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}" for name in core.available_devices
        ]
    }


def _pygame(pygame: Any) -> dict[str, Any]:
    """Which SDL driver opens a display: 'x11', 'wayland', ...; '' where there is none to open."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return {"display": ""}
    try:
        pygame.display.init()
        return {"display": pygame.display.get_driver()}
    except pygame.error as error:
        return {"display": "", "display_error": str(error)}


def _torch(torch: Any) -> dict[str, Any]:
    return {"cuda": torch.version.cuda or "", "cuda_works": torch.cuda.is_available()}


def _gpu() -> dict[str, Any]:
    from dataclasses import asdict

    from sdps.core.gpu import first_gpu

    gpu = first_gpu()
    return {"gpu": asdict(gpu) if gpu else None}


def _derain() -> dict[str, Any]:
    """Derains a corner of the bundled picture with the bundled model, as a user's program would."""
    import av
    import numpy as np

    from sdps import Derainer
    from sdps.core.samples import PICTURE, sample

    with av.open(str(sample(PICTURE))) as container:
        rainy = next(container.decode(video=0)).to_ndarray(format="rgb24")[:128, :192].copy()
    begin = time.monotonic()
    with Derainer.load() as derainer:
        clean = derainer(rainy)
        seconds = time.monotonic() - begin
        likeness = float(np.corrcoef(clean.ravel(), rainy.ravel())[0, 1])
        backend = derainer.backend
        return {
            "model": derainer.manifest.name,
            "backend": backend.name,
            "reason": backend.reason,
            "size": f"{rainy.shape[0]}x{rainy.shape[1]}",
            "seconds": round(seconds, 2),
            "likeness": round(likeness, 3) if np.isfinite(likeness) else 0.0,
            "changed": bool((clean != rainy).any()),
        }


LIBRARIES = {
    "PIL": _pil,
    "av": _av,
    "cv2": _cv2,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "pygame": _pygame,
    "torch": _torch,
}
TASKS = {"gpu": _gpu, "derain": _derain}


def main(names: list[str]) -> None:
    """Looks at each in turn: a task of TASKS, or a module that is imported."""
    for name in names:
        answer: dict[str, Any] = {"name": name}
        try:
            if name in TASKS:
                answer |= TASKS[name]()
            else:
                module = importlib.import_module(name)
                answer |= {"version": str(getattr(module, "__version__", ""))}
                answer |= LIBRARIES.get(name, lambda module: {})(module)
        except BaseException as error:  # a library may raise anything, SystemExit too
            answer["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        # The newline first: libraries write to standard output too.
        sys.stdout.write(f"\n{json.dumps(answer)}\n")
        sys.stdout.flush()
