"""Which pictures show the same scene, so that none of them verifies what another has calibrated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdps.calibration.held_out import NEAR

_ONES = np.array([value.bit_count() for value in range(256)], np.uint8)


def scenes(hashes: Sequence[Sequence[str] | None]) -> list[int]:
    """The number of the scene that each picture shows, counted from 0 as they come.

    Pictures are of one scene where their hashes, of one as it is and of the other turned or mirrored, differ
    in at most NEAR bits, also by way of others.

    Args:
        hashes: `oriented_hashes` of each; None for one that is like no other.
    """
    found = [-1] * len(hashes)
    upright = [bytes.fromhex(known[0] if known else "0" * 16) for known in hashes]
    digits = np.array([list(one) for one in upright], np.uint8).reshape(-1, 8)
    free = np.array([known is not None for known in hashes], bool)
    number = -1
    for first, known in enumerate(hashes):
        if found[first] >= 0:
            continue
        number += 1
        found[first], free[first] = number, False
        waiting = [first] if known is not None else []
        while waiting:
            turned = [np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes[waiting.pop()] or ()]
            bits = np.min([_ONES[digits ^ one].sum(1) for one in turned], axis=0)
            near = np.flatnonzero(free & (bits <= NEAR))
            free[near] = False
            for other in near.tolist():
                found[other] = number
                waiting.append(other)
    return found


def split_groups(groups: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of the pictures that calibrate and of those that verify: every third group.

    Groups stay whole; where the third would be the larger part, the parts change places.

    Args:
        groups: The group of each picture, at least two different ones.
    """
    held = set(list(dict.fromkeys(groups))[1::3])
    rest = [i for i, group in enumerate(groups) if group not in held]
    verify = [i for i, group in enumerate(groups) if group in held]
    return (rest, verify) if len(rest) >= len(verify) else (verify, rest)


def split_film(frames: int) -> tuple[list[int], list[int]]:
    """The same of a film's frames: its last third verifies.

    Neighbours are alike, and those of a still camera are to the end. So the parts are stretches of
    time, and a twelfth of the film between them serves to neither.
    """
    start = frames - max(1, frames // 3)
    return list(range(start - frames // 12)), list(range(start, frames))
