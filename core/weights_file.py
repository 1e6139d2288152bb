"""Files of weights, told by their first bytes: names differ from one training framework to the next."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
HEAD = 16
"""Bytes that tell."""
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""


def kind_of(head: bytes) -> str:
    """'torch', 'safetensors' or '' for the first bytes of a file, HEAD or more of them.

    PyTorch writes a zip archive, and wrote a bare pickle before 1.6. No ONNX graph begins like one of
    them: its first byte is the tag of a protobuf field that ONNX has.
    """
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER:
        return "safetensors"
    return ""


def is_checkpoint(path: Path) -> bool:
    """Whether a file is weights by its name, in any case, or by what it begins with.

    By the name alone too, so that an empty or damaged one is called that, and not a bad graph.
    """
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return kind_of(stream.read(HEAD)) != ""
    except OSError:
        return False
