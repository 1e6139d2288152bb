"""Sizes and shape ranges."""

from __future__ import annotations

import pytest

from sdps.core.errors import UsageError
from sdps.core.spec import ShapeRange, Size


@pytest.mark.parametrize(
    ("text", "size"), [("720x1280", Size(720, 1280)), ("256", Size(256, 256)), (" 61X90 ", Size(61, 90))]
)
def test_sizes_are_read(text: str, size: Size) -> None:
    assert Size.parse(text) == size
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize("text", ["", "x", "12x", "axb", "7x64", "64x99999", "-8x8", "720p"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        Size.parse(text)


def test_padding_goes_up_to_the_stride() -> None:
    assert Size(61, 90).padded == Size(64, 92)
    assert Size(64, 92).padded == Size(64, 92)


def test_a_range_rises_and_a_dynamic_one_keeps_to_the_stride() -> None:
    assert not ShapeRange.fixed(Size(61, 90)).is_dynamic
    assert ShapeRange(Size(64, 64), Size(128, 128), Size(256, 256)).is_dynamic
    with pytest.raises(UsageError, match="rising"):
        ShapeRange(Size(64, 64), Size(32, 64), Size(256, 256))
    with pytest.raises(UsageError, match="multiple of 4"):
        ShapeRange(Size(62, 64), Size(128, 128), Size(256, 256))
