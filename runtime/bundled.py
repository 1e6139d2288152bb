"""Names of models, and the files that they stand for."""

from __future__ import annotations

from pathlib import Path

from sdps.core.errors import UsageError

DEFAULT_MODEL = "sdps-nano"
FOLDER = Path(__file__).parent / "models"


def bundled_models() -> list[str]:
    """Names of the models inside the package, the default first."""
    return sorted(
        (path.stem for path in FOLDER.glob("*.onnx")), key=lambda name: (name != DEFAULT_MODEL, name)
    )


def resolve(name_or_path: str | Path) -> Path:
    """The file of a bundled name, or the path itself.

    Raises:
        UsageError: neither a bundled name nor a file.
    """
    path = Path(name_or_path)
    bundled = FOLDER / f"{name_or_path}.onnx"
    if path.name == str(name_or_path) and not path.suffix and bundled.is_file():
        return bundled
    if not path.is_file():
        known = ", ".join(bundled_models())
        raise UsageError(
            f"There is no model {str(name_or_path)!r}.", f"Give a path, or one of the bundled: {known}."
        )
    return path
