"""What a film says of itself: title, moment and place, chapters, fonts; carried over to another."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

UNTRUE = {
    *("encoder", "encoded_by", "encoding_tool", "software", "duration", "rotate", "timecode", "handler_name"),
    *("major_brand", "minor_version", "compatible_brands", "width", "height", "framerate", "filesize"),
    *("videodatarate", "audiodatarate", "datasize", "videosize", "audiosize", "totalframes", "totalduration"),
    *("lasttimestamp", "lastkeyframetimestamp", "isvbr", "wmfsdkversion", "wmfsdkneeded", "bps"),
    *("number_of_frames", "number_of_bytes", "deviceconformancetemplate"),
}
"""Tags that speak of the file that is read, not of the film."""
APPLES = {
    "com.apple.quicktime.make": "make",
    "com.apple.quicktime.model": "model",
    "com.apple.quicktime.creationdate": "date",
    "com.apple.quicktime.location.iso6709": "location",
}
"""What an iPhone writes, and how others call it."""
COMMON = {"title", "artist", "album", "date", "comment", "genre", "copyright", "location", "creation_time"}
KEPT = {
    "mov": COMMON | {"make", "model"},
    "mp4": COMMON
    | {"album_artist", "composer", "grouping", "lyrics", "description", "synopsis", "show", "episode_id"}
    | {"network", "keywords", "track", "disc"},
}
"""Tags that FFmpeg writes into these; into Matroska and WebM it writes all. Found by writing them."""
CLOCK = Fraction(1, 1000)


def copy_tags(source: Any, target: Any) -> list[str]:
    """Copies the tags of one open container to another, and tells what was lost."""
    kind = {"ipod": "mp4"}.get(target.format.name, target.format.name)
    lost = []
    for name, value in source.metadata.items():
        key = APPLES.get(name.lower(), name)
        if key.lower() in UNTRUE or key.lower().startswith("_statistics"):
            continue
        again = key.partition("-")[0] != key and key.partition("-")[0] in source.metadata  # in a language
        if kind in KEPT and key.lower() not in KEPT[kind]:
            lost += [] if again else [name]
        elif name == key or key not in source.metadata:
            target.metadata[key] = value
    return [f"{kind} does not hold all that the film says of itself: {', '.join(lost)}"] if lost else []


def copy_attachments(source: Any, target: Any) -> list[str]:
    """Copies attached files, which only Matroska holds (fonts of its subtitles), and tells what was lost."""
    lost, kind = [], target.format.name
    for stream in source.streams:
        if stream.type == "attachment":
            name = stream.metadata.get("filename", "attachment")
            if kind == "matroska" and hasattr(target, "add_attachment"):
                target.add_attachment(name, stream.metadata.get("mimetype", ""), stream.data)
            else:
                lost.append(name)
    return [f"attached files are left out: {', '.join(lost)}"] if lost else []


def further_pictures(source: Any) -> list[str]:
    """Tells of the pictures beside the first stream's, of which nothing is made."""
    count = len(source.streams.video) - 1
    return [f"of the {count + 1} picture streams only the first is taken"] if count > 0 else []


def copy_chapters(source: Any, target: Any, offset: float, seconds: float = math.inf) -> None:
    """Copies the chapters of so many seconds from a moment of the source's clock on.

    To be done at the end, when it is known where that is: MP4 is as long as its chapters. PyAV 15 knows none.
    """
    chapters: list[Any] = []
    for chapter in source.chapters() if hasattr(target, "set_chapters") else ():
        begin, end = (float(chapter[at] * chapter["time_base"]) - offset for at in ("start", "end"))
        begin, end = max(0.0, begin), min(end, seconds)
        if end - begin > CLOCK:
            chapters.append(
                {
                    "id": len(chapters) + 1,
                    "start": round(begin / CLOCK),
                    "end": round(end / CLOCK),
                    "time_base": CLOCK,
                    "metadata": dict(chapter["metadata"]),
                }
            )
    if chapters:
        target.set_chapters(chapters)
