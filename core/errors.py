"""The exception tree. Every error says what is wrong and how to mend it, in one line each.

Exit codes of the commands: 2 for wrong usage (the arguments), 1 for a failure of the work.
"""

from __future__ import annotations


class SdpsError(Exception):
    """Base of every error that sdps raises on purpose.

    Args:
        message: What is wrong, one line.
        remedy: How to mend it, one line; shown after the message.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class UsageError(SdpsError):
    """The arguments do not fit together or name something that is not there."""

    exit_code = 2


class MissingDependency(SdpsError):  # noqa: N818 - it reads as what it is
    """A package of an optional extra is not installed."""


class CheckpointError(SdpsError):
    """A file is no SD-PSFNet checkpoint, or a damaged one."""


class ExportError(SdpsError):
    """A graph could not be exported, or is not what it should be."""


class ParityError(ExportError):
    """An exported graph does not restore the picture that PyTorch restores."""


class EngineError(SdpsError):
    """An engine could not be built, or does not belong to this machine or graph."""


class ModelError(SdpsError):
    """A model file cannot be run by sdps."""


class TrainingError(SdpsError):
    """The device failed, its memory ran out, or training diverged; what was saved stays."""


class SourceError(SdpsError):
    """Frames cannot be read."""


class SinkError(SdpsError):
    """Frames cannot be written."""


class FrameError(SdpsError, ValueError):
    """An array is no picture: wrong shape, dtype or size."""
