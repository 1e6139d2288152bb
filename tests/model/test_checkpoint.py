"""Checkpoints in every wrapping load; anything else gets one clear line."""

from __future__ import annotations

import os
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdps.core.errors import CheckpointError
from sdps.core.weights_file import is_checkpoint
from sdps.model import SDPSFNet, SDPSFNetConfig, load_checkpoint, save_checkpoint
from sdps.model.checkpoint import to_published

CONFIGS = [
    SDPSFNetConfig(tau=0, features=8, scale_unet=4, scale_orb=4, cabs=1),
    SDPSFNetConfig(tau=2, features=12, scale_unet=4, scale_orb=8, cabs=3, psf_channels=8),
    SDPSFNetConfig(tau=1, features=16, scale_unet=8, scale_orb=4, cabs=2, reduction=8),
    SDPSFNetConfig(tau=0, features=10, scale_unet=5, scale_orb=3, cabs=1, reduction=4),
]


@pytest.fixture
def network() -> SDPSFNet:
    torch.manual_seed(1)
    return SDPSFNet(CONFIGS[0])


@pytest.fixture
def published(network: SDPSFNet) -> dict[str, Tensor]:
    return to_published(network)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("layout", ["published.pth", "published.safetensors", "ours.safetensors"])
def test_round_trip_of_any_widths(config: SDPSFNetConfig, layout: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = SDPSFNet(config).eval()
    torch.nn.init.constant_(network.stage_in.encoder.levels[0][0].act.weight, 0.17)  # type: ignore[index, union-attr, arg-type]
    path = tmp_path / layout
    if layout == "published.pth":
        torch.save(to_published(network), path)
    elif layout == "published.safetensors":
        save_file({key: value.clone() for key, value in to_published(network).items()}, path)
    else:
        save_checkpoint(network, path)
    loaded = load_checkpoint(path)
    x = torch.rand(1, 3, 16, 24)
    assert loaded.config == config
    assert not loaded.training
    outputs = loaded(x)
    assert len(outputs) == config.tau + 2
    for mine, its in zip(network(x), outputs, strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params", "generator", "ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed(
    wrapper: str, prefix: str, published: dict[str, Tensor], network: SDPSFNet, tmp_path: Path
) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save({wrapper: {prefix + key: value for key, value in published.items()}, "epoch": 3}, path)
    assert torch.equal(load_checkpoint(path).stage_osr.tail.weight, network.stage_osr.tail.weight)


def test_an_epoch_beside_bare_weights_is_passed_over(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(published | {"epoch": 3, "best": None, "name": "run 7"}, tmp_path / "bare.pth")
    assert load_checkpoint(tmp_path / "bare.pth").stage_osr.tail.weight.isfinite().all()


def test_half_precision_weights_become_float(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save({key: value.half() for key, value in published.items()}, path)
    assert {value.dtype for value in load_checkpoint(path).parameters()} == {torch.float32}


TAIL, FIRST, FUSION = (
    "stage_osr.tail.weight",
    "stage_in.shallow_feat.shallow_feat.0.weight",
    "stage_in.psf.fusion.1.weight",
)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (TAIL, torch.zeros(3, 8, 3, 3, device="meta"), "has a shape and no values"),
        (TAIL, torch.zeros(3, 8, 3, 3).to_sparse(), "is sparse"),
        (TAIL, torch.zeros(3, 8, 3, 3, dtype=torch.complex64), "is complex"),
        (TAIL, torch.full((3, 8, 3, 3), 1e300, dtype=torch.float64), "NaN or infinite"),
        (TAIL, torch.full((3, 8, 3, 3), torch.nan).to(torch.float8_e4m3fn), "NaN or infinite"),
        (TAIL, torch.zeros(3, 8, 3, 3, dtype=torch.int8), "has shape"),
        (FIRST, torch.tensor(1.0), "has the shape ()"),
        (FUSION, torch.zeros(0, 8, 1, 1), "has the shape (0, 8, 1, 1)"),
        (FIRST, torch.zeros(100_000, 3, 3, 3), "levels get narrower"),
        (FUSION, torch.zeros(1_000_000, 1, 1, 1), "has shape"),
        (1, torch.zeros(3), "not a state dict of tensors"),
        ("stage_mid.99999.tail.weight", torch.zeros(3), "keys missing"),
    ],
    ids=lambda value: "" if isinstance(value, Tensor) else str(value),
)
def test_odd_weights_are_said_in_one_line(
    key: str | int, value: Tensor, says: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({**published, key: value}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "odd.pth")
    assert says in str(caught.value) and "\n" not in str(caught.value)


def broken(published: dict[str, Tensor], how: str) -> object:
    key = "stage_osr.tail.weight"
    if how == "missing":
        del published[key]
    elif how == "unknown":
        published["stage_osr.head.weight"] = torch.zeros(1)
    elif how == "shape":
        published[key] = torch.zeros(3, 5, 3, 3)
    elif how == "nan":
        published[key] = published[key].detach().clone().fill_(float("nan"))
    elif how == "list":
        return [1, 2, 3]
    elif how == "other":
        return {"conv1.weight": torch.zeros(3, 3)}
    return published


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "1 keys missing (stage_osr.tail.weight)"),
        ("unknown", "1 keys unknown (stage_osr.head.weight)"),
        ("shape", "stage_osr.tail.weight has shape (3, 5, 3, 3)"),
        ("nan", "stage_osr.tail.weight holds NaN"),
        ("list", "a list, not a state dict of tensors"),
        ("other", "the key stage_in.shallow_feat.shallow_feat.0.weight is missing"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(
    how: str, says: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "bad.pth"
    torch.save(broken(published, how), path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_hold_no_weights(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_git_lfs_pointer_says_how_to_get_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "Rain100H-sota.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:dd02b16e\nsize 38876396\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_checkpoint(path)


def test_truncated_download(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save(published, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


class Payload:
    """A pickle that would make a file when loaded the unsafe way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_malicious_pickle_is_refused_and_not_run(published: dict[str, Tensor], tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({**published, "payload": Payload(marker)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="running its code"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_missing_file() -> None:
    with pytest.raises(CheckpointError, match="no file"):
        load_checkpoint("nowhere.pth")


@pytest.mark.parametrize(
    "name", ["net.PTH", "net.ckpt", "net.bin", "net", "net.SafeTensors", "zip.safetensors"]
)
def test_the_content_tells_and_not_the_suffix(name: str, network: SDPSFNet, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "net.SafeTensors":
        save_checkpoint(network, path)
    else:
        torch.save(to_published(network), path)
    assert is_checkpoint(path)
    assert torch.equal(load_checkpoint(path).stage_osr.tail.weight, network.stage_osr.tail.weight)


def test_what_is_told_by_its_name_only(tmp_path: Path) -> None:
    for name, told in (("bad.PTH", True), ("bad.onnx", False), ("bad.bin", False)):
        (tmp_path / name).write_bytes(b"")
        assert is_checkpoint(tmp_path / name) == told
    assert not is_checkpoint(tmp_path / "nowhere.onnx")


def test_what_lightning_keeps_beside_the_network_is_left_out(
    published: dict[str, Tensor], network: SDPSFNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "epoch=3.ckpt"
    state = {"model." + key: value for key, value in published.items()}
    state["loss.vgg.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "epoch": 3}, path)
    assert torch.equal(load_checkpoint(path).stage_osr.tail.weight, network.stage_osr.tail.weight)
    assert "1 keys beside the network ignored (loss.vgg.weight)" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["ema.stage_osr.tail.weight", "stage_osr.tail.weight", "model.loss.weight"])
def test_what_may_belong_to_a_network_is_not_left_out(
    key: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "two.ckpt"
    torch.save({**{"model." + name: value for name, value in published.items()}, key: torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_two_networks_in_one_file_are_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "two.ckpt"
    torch.save({prefix + key: value for prefix in ("a.", "b.") for key, value in published.items()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_scalars_of_a_trainer_do_no_harm(
    module: str, published: dict[str, Tensor], network: SDPSFNet, tmp_path: Path
) -> None:
    """Numpy 1 wrote another module name; only the pickle in the archive differs."""
    written, path = tmp_path / "written.pth", tmp_path / "best.pth"
    scalars = {"best_psnr": np.float64(31.5), "epoch": np.int64(3), "done": np.bool_(True)}
    torch.save({"state_dict": published, **scalars}, written)
    with zipfile.ZipFile(written) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                here = next(
                    str(argument).split()[0].encode()
                    for opcode, argument, _ in pickletools.genops(data)
                    if opcode.name == "GLOBAL" and str(argument).endswith("multiarray scalar")
                )
                data = data.replace(b"c" + here + b"\n", b"c" + module.encode() + b"\n")
            new.writestr(item, data)
    assert torch.equal(load_checkpoint(path).stage_osr.tail.weight, network.stage_osr.tail.weight)


@pytest.mark.parametrize("value", [np.zeros(3), np.random.default_rng(0)])
def test_other_objects_of_numpy_are_still_refused(
    value: object, published: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "more.pth"
    torch.save({"state_dict": published, "more": value}, path)
    with pytest.raises(CheckpointError, match="running its code"):
        load_checkpoint(path)


def test_the_state_of_a_run_says_where_its_weights_are(network: SDPSFNet, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    state = {"network": dict(network.named_parameters()), "optimiser": {}, "recipe": {}, "step": 3}
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"Give last\.safetensors of that run"):
        load_checkpoint(path)
    save_checkpoint(network, tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.remedy.endswith(str(tmp_path / "last.safetensors"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_whole_programs_are_called_what_they_are(tmp_path: Path) -> None:
    """And nobody is advised to load them with their code."""
    network, image = torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8)
    torch.jit.trace(network, image).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(network, (image,)), tmp_path / "program.pt2")
    for file, what in (("script.pt", "a TorchScript program"), ("program.pt2", "an exported program")):
        with pytest.raises(CheckpointError, match=rf"{what}.*torch\.save\(network\.state_dict"):
            load_checkpoint(tmp_path / file)
