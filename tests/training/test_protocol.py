"""The paper's protocol by its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sdps.core.frame import Image
from sdps.model import SDPSFNet
from sdps.model.deploy import denormalise, normalise
from sdps.model.zoo import bundled
from sdps.training.protocol import means, paper_tiles, score_picture
from sdps.training.restorers import NetworkRestorer, open_restorer

Picture = Callable[[int, int], Image]


class Unchanged:
    """Gives levels back as they came."""

    name, exact = "unchanged", True

    def tiles(self, batch: Image) -> np.ndarray[Any, np.dtype[Any]]:
        return batch.astype(np.float32)

    def frame(self, image: Image) -> Image:
        return image.copy()

    def memory(self, image: Image) -> int:
        return 0

    def must_tile(self, image: Image) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize("size", [(128, 128), (90, 300), (129, 191), (11, 13)])
def test_tiles_of_an_unchanging_model_are_the_picture(size: tuple[int, int], picture: Picture) -> None:
    image = picture(*size)
    assert np.array_equal(paper_tiles(Unchanged(), image), image)


def test_tiles_are_averaged_uniformly_and_truncated(tiny_network: SDPSFNet, picture: Picture) -> None:
    """Written out for a picture of two tiles in a row: 0..128 and 64..192."""
    image = picture(128, 192)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        left, right = (
            denormalise(tiny_network(normalise(x[:, :, :, start : start + 128]))[-1]) for start in (0, 64)
        )
    mean = torch.cat([left[..., :64], (left[..., 64:] + right[..., :64]) / 2, right[..., 64:]], 3)
    expected = (mean.clamp(0, 1) * 255).byte()[0].permute(1, 2, 0).numpy()
    result = paper_tiles(NetworkRestorer(tiny_network, "tiny"), image)
    # Float32 in another order of operations may fall on the other side of a level.
    assert (result != expected).mean() < 1e-3
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_graph_scores_as_its_checkpoint_does(picture: Picture) -> None:
    clean = picture(100, 130)
    rainy = np.clip(clean + np.random.default_rng(0).normal(0, 15, clean.shape), 0, 255).astype(np.uint8)
    values = []
    for model in (str(bundled()["sdps-nano"]), "sdps-nano"):
        restorer = open_restorer(model, device="cpu")
        values.append([score.after.psnr for score in score_picture("a", rainy, clean, restorer)])
        restorer.close()
    # The paper's tiles are truncated from exact numbers, and rounded from a graph's levels.
    assert values[0] == pytest.approx(values[1], abs=0.2)
    assert values[0][2:] == pytest.approx(values[1][2:], abs=1e-3)


def test_equal_pictures_only_have_no_mean(picture: Picture) -> None:
    image = picture(40, 40)
    mean = means(score_picture("a", image, image, Unchanged(), ("frame",)))[0]
    assert (mean.equal_before, mean.equal_after) == (1, 1)
    values = mean.to_json()
    assert values["before"] == values["after"] == {"psnr": None, "ssim": 1.0}
    assert values["gain"] is None and values["worst_gain"] is None
