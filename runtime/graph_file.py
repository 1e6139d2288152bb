"""Reads what an ONNX file says of itself, without the onnx package (which the runtime lacks).

Only the protobuf wire format and a few field numbers of onnx.proto are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdps.core.errors import ModelError
from sdps.core.manifest import GraphManifest

METADATA_PROPS = 14
# Field numbers of onnx.proto by which a tensor can be reached, initializer or not: ONNX Runtime
# follows external data in all of them, relative to the working directory.
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14


def read_graph(path: Path) -> tuple[bytes, GraphManifest]:
    """The bytes of an ONNX file and the description in it.

    Raises:
        ModelError: no such file, not an ONNX file, not written by sdps, or a graph that would
            read other files (external data), which is refused: a path in a graph is not trusted.
    """
    if not path.is_file():
        raise ModelError(
            f"There is no model file {path}.", "Give a bundled name or the path of an ONNX file."
        )
    data = path.read_bytes()
    try:
        metadata: dict[str, str] = {}
        for field, value in _fields(memoryview(data)):
            if field == METADATA_PROPS:
                entry = {key: bytes(text).decode() for key, text in _fields(value)}
                metadata[entry.get(1, "")] = entry.get(2, "")
        external = _is_external(memoryview(data), "model")
    except (IndexError, ValueError, OverflowError, RecursionError):
        raise ModelError(
            f"{path} is not an ONNX file, or a truncated one.", "Export it again with sdps-export."
        ) from None
    if external:
        raise ModelError(
            f"{path} keeps weights in other files, which is refused.", "Export it again with sdps-export."
        )
    return data, GraphManifest.from_metadata(metadata, str(path))


def _is_external(data: memoryview, kind: str) -> bool:
    """Whether a message of `kind` holds a tensor whose values are in another file."""
    if kind == "tensor":
        return any(
            field == EXTERNAL_DATA or (field == DATA_LOCATION and value != b"\x00")
            for field, value in _fields(data)
        )
    children = CHILDREN[kind]
    return any(_is_external(value, children[field]) for field, value in _fields(data) if field in children)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of a protobuf message; a number's content is its low byte."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("truncated")
            yield field, data[at : at + length]
            at += length
        elif wire == 0:
            start = at
            _, at = _varint(data, at)
            yield field, data[start : start + 1]
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("not protobuf")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not protobuf")
