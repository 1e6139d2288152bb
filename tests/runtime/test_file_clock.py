"""Stamps that fall back, and such as are false."""

from __future__ import annotations

import math

import pytest

from sdps.runtime.file_clock import Ahead, FileClock


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


def ahead(stamps: list[float | None], look: float = 0.0) -> list[float]:
    stream: Ahead[int] = Ahead(FileClock(), look)
    found = [pair for i, stamp in enumerate(stamps) for pair in stream.add(i, stamp, 0.04)]
    found += stream.rest()
    assert [i for i, _ in found] == list(range(len(stamps)))
    return [round(moment, 6) for _, moment in found]


@pytest.mark.parametrize("false", [42.0, 3.0])
def test_one_stamp_that_leaps_ahead_moves_none_of_the_others(false: float) -> None:
    assert ahead([0.0, 0.04, false, 0.12, 0.16]) == [0.0, 0.04, 0.08, 0.12, 0.16]


def test_a_real_pause_stays_and_so_does_one_at_the_end() -> None:
    stamps: list[float | None] = [0.0, 0.04, 40.0, 40.04, 40.08, 90.0]
    assert ahead(stamps) == ahead(stamps, 1.0) == stamps


def test_frames_that_are_said_to_last_longer_than_they_do_keep_their_moments() -> None:
    """Of many files only the mean is known, and of a variable rate it is none's."""
    stream: Ahead[int] = Ahead(FileClock())
    stamps = [0.0, 0.01, 1.6, 1.61, 1.62]
    found = [pair for i, stamp in enumerate(stamps) for pair in stream.add(i, stamp, 0.5)]
    assert [moment for _, moment in found] == stamps


def test_the_pieces_of_one_packet_share_its_false_stamp() -> None:
    stamps: list[float | None] = [0.0, 0.04, 42.0, 42.04, None, 42.12, 0.24, 0.28]
    assert ahead(stamps, 1.0) == [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28]


def test_a_stamp_that_fell_back_falsely_is_no_leap_when_it_is_over() -> None:
    assert ahead([100.0, 100.04, 3.0, 100.12, 100.16]) == [100.0, 100.04, 100.08, 100.12, 100.16]


def test_a_first_stamp_leaps_from_nothing() -> None:
    stream: Ahead[str] = Ahead(FileClock())
    assert stream.add("first", 30.0, 0.04) == [("first", 30.0)]
