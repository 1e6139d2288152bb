"""Credentials never leave: not in messages, logs, exceptions or health files."""

from __future__ import annotations

import re

AUTHORITY = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<userinfo>[^\s/?#'\"]*)@", re.IGNORECASE)
# A password with a raw slash in it: what looks like the host's port is no number, and an @ follows.
BROKEN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/?#@:]*:(?!\d+[/?#])[^\s'\"]*@", re.IGNORECASE)
QUERY = re.compile(
    r"(?P<name>[?&;](?:[a-z_-]*(?:pass|pwd|secret|token|key|auth|sig|credential)[a-z_-]*)=)[^&;#\s'\"]*",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """A URI, or any text with URIs in it, without passwords, tokens and keys.

    >>> redacted("rtsp://me:secret@cam/1?token=abc")
    'rtsp://me:***@cam/1?token=***'
    """

    def mask(match: re.Match[str]) -> str:
        user, colon, _ = match["userinfo"].partition(":")
        # Without a colon the whole of it may be a token.
        return f"{match['scheme']}{user}:***@" if colon else f"{match['scheme']}***@"

    text = BROKEN.sub(lambda match: match["scheme"] + "***@" if _is_broken(match[0]) else match[0], text)
    return QUERY.sub(lambda match: match["name"] + "***", AUTHORITY.sub(mask, text))


def _is_broken(match: str) -> bool:
    """Whether the @ lies beyond the place where the host should have ended."""
    return any(mark in match.split("://", 1)[1] for mark in "/?#")
