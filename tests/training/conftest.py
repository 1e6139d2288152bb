"""What tests of the room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdps.core.errors import SdpsError
from sdps.training.photos import fetch_photos


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The folder of the photographs, where there is a network to fetch them over."""
    try:
        return fetch_photos()
    except SdpsError as error:
        pytest.skip(str(error))
