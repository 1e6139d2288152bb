"""Checkpoints: the authors' `.pth` layout and our safetensors, and a network from either.

Hyperparameters are read from the weights' shapes. `PUBLISHED` says, block by block, what the
authors call the children that we call otherwise; from it follow the names of every weight.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdps.core.artifact import write_bytes
from sdps.core.console import need
from sdps.core.errors import CheckpointError
from sdps.model import psfnet as net
from sdps.model.ablations import ablation_of
from sdps.model.psfnet import PSF_SIZE, SDPSFNet, SDPSFNetConfig
from sdps.model.state_file import read_state, strip_prefixes

# {i}, {n}, {m}: the index in a list, the index + 1, the index + 2. {last}: the ORB's CAB count.
PUBLISHED: dict[type[nn.Module], dict[str, str]] = {
    net.ChannelAttention: {"squeeze": "conv_du.0", "excite": "conv_du.2"},
    net.CAB: {"conv1": "body.0", "act": "body.1", "conv2": "body.2", "attention": "CA"},
    net.Gate: {"squeeze": "gate.1", "act": "gate.2", "excite": "gate.3"},
    net.SAM: {"conv_features": "conv1", "conv_image": "conv2", "conv_attention": "conv3"},
    net.ShallowFeature: {"conv_in": "shallow_feat.0", "cab": "shallow_feat.1", "conv_out": "conv"},
    net.Down: {"stride": "down.0", "widen": "down.1"},
    net.Up: {"stride": "up.0", "narrow": "up.1"},
    net.Encoder: {"levels": "encoder_level{n}", "downs": "down{n}{m}", "gates": "encoder_gate{n}"},
    net.PSFHead: {"predictors": "predictors.{i}.1", "cab": "fusion.0", "expand": "fusion.1"},
    net.PSFAttention: {
        "reduce1": "psf_channel_reducer.reducer.0",
        "reduce2": "psf_channel_reducer.reducer.2",
        "encode1": "psf_encoder.0",
        "encode2": "psf_encoder.2",
        "affine1": "channel_fc.0",
        "affine2": "channel_fc.2",
        "spatial1": "spatial_att.0",
        "spatial2": "spatial_att.2",
    },
    net.PSFAB: {"conv1": "body.0", "act": "body.1", "conv2": "body.2", "attention": "PSFA"},
    net.Decoder: {
        "psf_blocks": "decoer_psf{n}",  # so spelled
        "levels": "decoder_level{n}",
        "skips": "skip_attn{n}",
        "ups": "up{m}{n}",
    },
    net.CSFF: {
        "fuse": "update_gates.{i}.0",
        "update": "update_gates.{i}.1",
        "conv1": "update_gates.{i}.2",
        "conv2": "update_gates.{i}.3",
    },
    net.UStage: {"shallow": "shallow_feat", "csff": "CSFF"},
    net.ORB: {"cabs": "body.{i}", "conv": "body.{last}"},
    net.ORStage: {
        "shallow": "shallow_feat",
        "orbs": "osrnet.orb{n}",
        "up1": "osrnet.up_enc1",
        "up2": "osrnet.up_enc2.{i}",
        "unused_up1": "osrnet.up_dec1",
        "unused_up2": "osrnet.up_dec2.{i}",
        "laterals": "osrnet.conv{n}",
    },
}

FIRST = ("stage_in.shallow_feat.shallow_feat.0.weight", "stage_in.shallow.conv_in.weight")
"""A weight that every SD-PSFNet has, as the authors call it and as we do."""
STAGES = ("stage_in", "stage_mid", "stage_osr")
"""All that a network consists of."""


def published_names(network: SDPSFNet) -> dict[str, str]:
    """Maps each of our `state_dict` keys to the authors' key. A bijection, aliases included."""

    def walk(module: nn.Module, ours: str, theirs: str) -> dict[str, str]:
        names = {ours + leaf: theirs + leaf for leaf, _ in module.named_parameters(recurse=False)}
        # A list, unlike named_children(), repeats the shared PReLU wherever it stands.
        for name, child in module._modules.items():
            if child is None:
                continue
            template = PUBLISHED.get(type(module), {}).get(name, name)
            last = len(child) if isinstance(child, nn.Sequential) else len(getattr(module, "cabs", ()))
            if re.search(r"\{[inm]\}", template):
                for i, part in enumerate(child.children()):
                    label = template.format(i=i, n=i + 1, m=i + 2)
                    names |= walk(part, f"{ours}{name}.{i}.", f"{theirs}{label}.")
            else:
                names |= walk(child, f"{ours}{name}.", f"{theirs}{template.format(last=last)}.")
        return names

    return walk(network, "", "")


def to_published(network: SDPSFNet) -> dict[str, Tensor]:
    """The network's weights under the authors' keys, in their layout (891 keys for tau = 3)."""
    names = published_names(network)
    return {names[key]: value for key, value in network.state_dict().items()}


def infer_config(state: Mapping[str, Tensor]) -> SDPSFNetConfig:
    """Reads the hyperparameters from shapes; `state` has the authors' keys.

    Raises:
        CheckpointError: the keys that decide them are missing, or have shapes that no network has.
    """

    def kernels(key: str) -> tuple[int, int]:
        """A convolution's outputs and inputs."""
        if key not in state:
            raise CheckpointError(f"No SD-PSFNet checkpoint: the key {key} is missing.", _first_keys(state))
        shape = tuple(state[key].shape)
        if len(shape) != 4 or 0 in shape:
            raise CheckpointError(f"No SD-PSFNet checkpoint: {key} has the shape {shape}.")
        return shape[0], shape[1]

    features, _ = kernels("stage_in.shallow_feat.shallow_feat.0.weight")
    # Counted, not the highest: a key that skips numbers is told as one that is unknown.
    stages = {m[1] for key in state if (m := re.match(r"stage_mid\.(\d+)\.", key))}
    cabs = {m[1] for key in state if (m := re.match(r"stage_osr\.osrnet\.orb1\.body\.(\d+)\.CA\.", key))}
    # C // r of every block: one alone would leave r open where it does not divide C.
    squeezed = [kernels(key)[::-1] for key in state if key.endswith(".CA.conv_du.0.weight")]
    reduction = next((r for r in range(1, features + 1) if all(c // r == s for c, s in squeezed)), 0)
    if not squeezed or not reduction:
        raise CheckpointError("No SD-PSFNet checkpoint: its channel attentions share no reduction.")
    scale_unet = kernels("stage_in.encoder.encoder_level2.0.body.0.weight")[0] - features
    scale_orb = kernels("stage_osr.shallow_feat.conv.weight")[0] - features
    if min(scale_unet, scale_orb) < 0:
        raise CheckpointError("No SD-PSFNet checkpoint: its levels get narrower.")
    ablation = ablation_of(state)
    return SDPSFNetConfig(
        tau=len(stages),
        features=features,
        scale_unet=scale_unet,
        scale_orb=scale_orb,
        cabs=len(cabs),
        reduction=reduction,
        psf_channels=SDPSFNetConfig.psf_channels
        if ablation
        else kernels("stage_in.psf.fusion.1.weight")[0] // PSF_SIZE**2,
        ablation=ablation,
    )


def load_checkpoint(path: str | Path) -> SDPSFNet:
    """Loads an SD-PSFNet from the authors' `.pth` layout or from safetensors.

    Args:
        path: A PyTorch file (plain, or wrapped in `state_dict`, `model`, `params`, with or without
            `module.` prefixes), read with `weights_only=True` and never otherwise; or safetensors.
            In the authors' keys or in ours. What it is its content tells, whatever the suffix.
            Lightning keeps a loss' weights beside the network's: those are ignored, and standard
            error says so.

    Returns:
        The network in eval mode, float32, on the CPU, tau and widths as the shapes say.

    Raises:
        CheckpointError: no such file, not readable without running code, keys missing or
            unknown, shapes that do not fit, or weights that are not finite.
    """
    path = Path(path)
    state, foreign = _own(strip_prefixes(read_state(path)))
    if any(key.startswith("stage_in.shallow.") for key in state):
        state = _from_ours(state)
    config = infer_config(state)
    with torch.device("meta"):  # shapes alone: those of a mixed-up file may be larger than the memory
        expected = SDPSFNet(config)
    names = published_names(expected)
    _check(path, state, {names[key]: value.shape for key, value in expected.state_dict().items()})
    network = SDPSFNet(config)
    network.load_state_dict({ours: state[theirs].float() for ours, theirs in names.items()}, strict=True)
    if foreign:
        sys.stderr.write(f"{path.name}: {_some('beside the network ignored', foreign).rstrip()}\n")
    return network.eval().requires_grad_(False)


def save_checkpoint(network: SDPSFNet, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the weights as safetensors under our keys, the shared slope once, atomically."""
    need("safetensors")
    from safetensors.torch import save

    tensors = {key: value.detach().float().cpu().contiguous() for key, value in network.named_parameters()}
    write_bytes(Path(path), save(tensors, metadata=dict(metadata or {})))


def _own(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The network's weights without their prefix, and the names of what else stood beside them.

    Something is left out only if one prefix leads to a whole network and nothing outside it is called
    like a part of one; so two networks (a student and its average) are refused as they were.
    """
    prefixes = {key.removesuffix(name) for key in state for name in FIRST if key.endswith("." + name)}
    foreign = [key for key in state if not key.startswith(tuple(prefixes))]
    if len(prefixes) != 1 or any(part in STAGES for key in foreign for part in key.split(".")):
        return state, []
    prefix = prefixes.pop()
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}, foreign


def _from_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to the authors'; the slope is stored once and comes back under all its aliases."""
    tau = len({m[1] for key in state if (m := re.match(r"stage_mid\.(\d+)\.", key))})
    cabs = len({m[1] for key in state if (m := re.match(r"stage_osr\.orbs\.0\.cabs\.(\d+)\.", key))})
    # Names depend on tau, the number of CABs and the ablation only, so the smallest widths do.
    config = SDPSFNetConfig(
        tau=tau, features=4, scale_unet=4, scale_orb=4, cabs=cabs, ablation=ablation_of(state)
    )
    names = published_names(SDPSFNet(config))
    slope = next((value for key, value in state.items() if key.endswith(".act.weight")), None)
    if slope is not None:
        state = {key: slope for key in names if key.endswith(".act.weight")} | state
    return {names.get(key, key): value for key, value in state.items()}


def _check(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        lists = f"{_some('missing', missing)}{_some('unknown', unknown)}".rstrip()
        raise CheckpointError(f"{path} is no SD-PSFNet checkpoint: {lists}")
    for key, shape in expected.items():
        if state[key].shape != shape:
            raise CheckpointError(
                f"{path}: {key} has shape {tuple(state[key].shape)}, the others call for {tuple(shape)}.",
                "The file mixes weights of different networks.",
            )
        if not state[key].is_floating_point():
            raise CheckpointError(
                f"{path}: {key} is of {state[key].dtype}, weights are floating-point numbers."
            )
    slopes = {
        value.item()
        for key, value in state.items()
        if value.numel() == 1 and value.dim() == 1 and "spatial_att" not in key
    }
    if len(slopes) > 1:
        raise CheckpointError(
            f"{path}: the shared PReLU has {len(slopes)} different slopes.", "SD-PSFNet shares one."
        )


def _some(label: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
    return f"{len(keys)} keys {label} ({shown}). "


def _first_keys(state: Mapping[str, Tensor]) -> str:
    return "It has keys such as " + ", ".join(list(state)[:3]) + "."
