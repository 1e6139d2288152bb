"""Stamps that fall back, and such as are false."""

from __future__ import annotations

import math

import pytest

from sdps.runtime.file_clock import FileClock


def moments(clock: FileClock, stamps: list[float | None]) -> list[float]:
    return [round(clock(stamp, 0.04), 6) for stamp in stamps]


def test_moments_begin_at_the_origin() -> None:
    assert moments(FileClock(1.4), [1.4, 1.44, None, 1.52]) == [0.0, 0.04, 0.08, 0.12]


def test_a_clock_set_anew_goes_on_where_it_was() -> None:
    clock = FileClock()
    assert moments(clock, [5.0, 5.04, 0.0, 0.04]) == [5.0, 5.04, 5.08, 5.12]
    assert clock.shift == pytest.approx(5.08)
    # Once more, and forwards as far as it likes.
    assert moments(clock, [0.0 - 3.0, 7.0]) == [5.16, 15.16]


def test_one_false_stamp_moves_none_of_the_others() -> None:
    assert moments(FileClock(), [100.0, 100.04, 3.0, 100.12, 100.16]) == [
        100.0,
        100.04,
        100.08,
        100.12,
        100.16,
    ]


def test_small_steps_back_are_the_files_own() -> None:
    assert moments(FileClock(), [2.0, 1.5, 2.08]) == [2.0, 1.5, 2.08]


def test_packets_from_before_the_origin_are_no_jump() -> None:
    clock = FileClock(10.0)
    assert moments(clock, [8.0, 9.0, 10.0]) == [-2.0, -1.0, 0.0]
    assert clock.shift == 0


def test_of_a_stream_that_is_live_stamps_stay_as_they_are() -> None:
    assert moments(FileClock(0.0, math.inf), [100.0, 3.0, 3.04]) == [100.0, 3.0, 3.04]
