"""SD-PSFNet, the whole network in one file.

Source: "SD-PSFNet", AAAI 2026, arXiv 2511.17993, and the layout of the authors' published
checkpoints (`checkpoint.py` maps their names to ours). Shapes stand beside the lines:
B batch, F `features`, S `scale_unet`, R `scale_orb`, C a block's own channels, h/w a map's size.
Convolutions have no bias unless said. One PReLU slope is shared by the whole network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PSF_SIZES = (3, 5, 7)  # the kernels predicted from the encoder's three levels
PSF_SIZE = 7  # the fused PSF's side


@dataclass(frozen=True)
class SDPSFNetConfig:
    """Everything that a checkpoint's shapes decide. The defaults are the paper's network.

    Attributes:
        tau: Number of middle stages; the network has tau + 2 supervised outputs.
        features: F, channels at full resolution.
        scale_unet: S, channels added per encoder level.
        scale_orb: R, channels that the original-resolution stage adds.
        cabs: Channel-attention blocks in each original-resolution block (ORB).
        reduction: Divisor of the channels inside channel attention and gates.
        psf_channels: Channels of the fused PSF.
        ablation: A rung of the paper's ablation that lacks parts (`ablations.py`); '' lacks none.
    """

    tau: int = 3
    features: int = 40
    scale_unet: int = 20
    scale_orb: int = 16
    cabs: int = 8
    reduction: int = 4
    psf_channels: int = 40
    ablation: str = ""

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the encoder's three levels."""
        return tuple(self.features + i * self.scale_unet for i in range(3))  # type: ignore[return-value]


def conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def spatial_mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)  # [B,C,h,w] -> [B,C,1,1]


class ChannelAttention(nn.Module):
    """x * sigmoid(conv(relu(conv(mean(x)))))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = conv(channels, channels // reduction, 1)
        self.excite = conv(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.excite(F.relu(self.squeeze(spatial_mean(x))))  # [B,C,1,1]
        return x * torch.sigmoid(weight)


class CAB(nn.Module):
    """Channel-attention block: two 3x3 convolutions, channel attention, residual."""

    def __init__(self, channels: int, reduction: int, act: nn.PReLU) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.act = act
        self.conv2 = conv(channels, channels, 3)
        self.attention = ChannelAttention(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.conv2(self.act(self.conv1(x)))) + x


class Gate(nn.Module):
    """Per-channel convex mix of two maps: w * x + (1 - w) * y."""

    def __init__(self, channels: int, reduction: int, act: nn.PReLU) -> None:
        super().__init__()
        self.squeeze = conv(2 * channels, channels // reduction, 1)
        self.act = act
        self.excite = conv(channels // reduction, channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = spatial_mean(torch.cat([x, y], 1))  # [B,2C,1,1]
        w = torch.sigmoid(self.excite(self.act(self.squeeze(pooled))))  # [B,C,1,1]
        return w * x + (1 - w) * y


class SAM(nn.Module):
    """Supervised attention: an image for the loss, and features attended by that image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_features = conv(channels, channels, 1)
        self.conv_image = conv(channels, 3, 1)
        self.conv_attention = conv(3, channels, 1)

    def forward(self, x: Tensor, rainy: Tensor) -> tuple[Tensor, Tensor]:
        image = self.conv_image(x) + rainy  # [B,3,H,W]
        attention = torch.sigmoid(self.conv_attention(image))  # [B,C,H,W]
        return self.conv_features(x) * attention + x, image


class ShallowFeature(nn.Module):
    """First features of a stage, gated with the previous stage's where there is one."""

    def __init__(self, config: SDPSFNetConfig, outputs: int, act: nn.PReLU, *, gated: bool) -> None:
        super().__init__()
        c = config.features
        self.conv_in = conv(3, c, 3)
        self.cab = CAB(c, config.reduction, act)
        self.gate = Gate(c, config.reduction, act) if gated else None
        self.conv_out = conv(c, outputs, 3)

    def forward(self, rainy: Tensor, previous: Tensor | None) -> Tensor:
        h = self.cab(self.conv_in(rainy))  # [B,F,H,W]
        if self.gate is not None:
            h = self.gate(h, previous)
        return self.conv_out(h)  # [B,outputs,H,W]


class HalvingConv(nn.Conv2d):
    """1x1 convolution of every second pixel.

    While it trains, the pixels are picked first: in channels-last, the backward pass of oneDNN's strided 1x1
    convolution writes past its memory where channels are no multiple of 16 (PyTorch 2.13, AVX-512).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.conv2d(x[:, :, ::2, ::2], self.weight)
        return super().forward(x)


class Down(nn.Module):
    """Halves the map: strided 1x1, then 1x1 to C + S channels."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.stride = HalvingConv(channels, channels)
        self.widen = conv(channels, channels + scale, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.widen(self.stride(x))  # [B,C,h,w] -> [B,C+S,h/2,w/2]


class Up(nn.Module):
    """Doubles the map: transposed 2x2 with bias at C + S channels, then 1x1 to C."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.stride = nn.ConvTranspose2d(channels + scale, channels + scale, 2, stride=2, bias=True)
        self.narrow = conv(channels + scale, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.stride(x))  # [B,C+S,h,w] -> [B,C,2h,2w]


class Encoder(nn.Module):
    """Three levels of two CABs; a middle stage gates each with the previous stage's features."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU, *, gated: bool) -> None:
        super().__init__()
        r, widths = config.reduction, config.widths
        self.levels = nn.ModuleList(nn.Sequential(CAB(c, r, act), CAB(c, r, act)) for c in widths)
        self.downs = nn.ModuleList(Down(c, config.scale_unet) for c in widths[:2])
        self.gates = nn.ModuleList(Gate(c, r, act) for c in widths) if gated else None

    def forward(self, h: Tensor, previous: list[Tensor] | None) -> list[Tensor]:
        features: list[Tensor] = []
        for i, level in enumerate(self.levels):
            h = level(h if i == 0 else self.downs[i - 1](h))  # [B,F+iS,H/2^i,W/2^i]
            if self.gates is not None and previous is not None:
                h = self.gates[i](h, previous[i])
            features.append(h)
        return features


class PSFHead(nn.Module):
    """Predicts the multi-channel point-spread function from the encoder's three levels."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU) -> None:
        super().__init__()
        self.channels = config.psf_channels
        taps = [k * k for k in PSF_SIZES]  # 9, 25, 49
        self.predictors = nn.ModuleList(
            conv(c, k, 1, bias=True) for c, k in zip(config.widths, taps, strict=True)
        )
        self.cab = CAB(sum(taps), config.reduction, act)
        self.expand = conv(sum(taps), config.psf_channels * PSF_SIZE**2, 1, bias=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        # Softmax makes each predicted kernel sum to 1.
        kernels = [p(spatial_mean(f)).softmax(1) for p, f in zip(self.predictors, features, strict=True)]
        fused = self.expand(self.cab(torch.cat(kernels, 1)))  # [B,83,1,1] -> [B,K*49,1,1]
        return fused.view(-1, self.channels, PSF_SIZE, PSF_SIZE)  # [B,K,7,7]


class PSFAttention(nn.Module):
    """Modulates features by the PSF: per channel (gamma, beta) and per pixel (a weight)."""

    def __init__(self, channels: int, psf_channels: int) -> None:
        super().__init__()
        reduced = max(1, psf_channels // 4)
        self.reduce1 = conv(psf_channels, reduced, 1)
        self.reduce2 = conv(reduced, 1, 1)
        self.encode1 = conv(1, 16, 7, bias=True)
        self.encode2 = conv(16, 32, 7)
        self.affine1 = nn.Linear(32, 2 * channels)
        self.affine2 = nn.Linear(2 * channels, 2 * channels)
        self.spatial1 = conv(channels + 1, channels // 2, 3, bias=True)
        self.spatial2 = conv(channels // 2, 1, 1, bias=True)

    def forward(self, x: Tensor, psf: Tensor) -> Tensor:
        psf = self.reduce2(F.relu(self.reduce1(psf)))  # [B,K,7,7] -> [B,1,7,7]
        psf = psf / (psf.sum((2, 3), keepdim=True) + 1e-8)  # unit energy
        code = self.encode2(F.relu(self.encode1(psf))).mean((2, 3))  # [B,32]
        gamma, beta = (
            self.affine2(F.gelu(self.affine1(code))).unsqueeze(2).unsqueeze(3).chunk(2, 1)
        )  # [B,C,1,1]
        x = x * gamma + beta
        # Indices, not a slice: the tracer then keeps a dynamic height and width apart.
        psf = F.interpolate(psf, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        weight = self.spatial2(F.relu(self.spatial1(torch.cat([x, psf], 1))))  # [B,C+1,h,w] -> [B,1,h,w]
        return x * torch.sigmoid(weight)


class PSFAB(nn.Module):
    """PSF-aware attention block: two 3x3 convolutions, PSF attention, residual."""

    def __init__(self, channels: int, psf_channels: int, act: nn.PReLU) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 3)
        self.act = act
        self.conv2 = conv(channels, channels, 3)
        self.attention = PSFAttention(channels, psf_channels)

    def forward(self, x: Tensor, psf: Tensor) -> Tensor:
        return self.attention(self.conv2(self.act(self.conv1(x))), psf) + x


class Decoder(nn.Module):
    """From the deepest level up: PSFAB, two CABs; skips go through a CAB of their own."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU) -> None:
        super().__init__()
        r, widths = config.reduction, config.widths
        self.psf_blocks = nn.ModuleList(PSFAB(c, config.psf_channels, act) for c in widths)
        self.levels = nn.ModuleList(nn.Sequential(CAB(c, r, act), CAB(c, r, act)) for c in widths)
        self.skips = nn.ModuleList(CAB(c, r, act) for c in widths[:2])
        self.ups = nn.ModuleList(Up(c, config.scale_unet) for c in widths[:2])

    def forward(self, features: list[Tensor], psf: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = []
        h = features[2]
        for i in (2, 1, 0):
            if i < 2:
                h = self.ups[i](h) + self.skips[i](features[i])
            h = self.levels[i](self.psf_blocks[i](h, psf))  # [B,F+iS,H/2^i,W/2^i]
            outputs.insert(0, h)
        return outputs


class CSFF(nn.Module):
    """Cross-stage feature fusion: what a stage hands to the next, per level."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU, *, gated: bool) -> None:
        super().__init__()
        r, widths = config.reduction, config.widths
        self.fuse = nn.ModuleList(Gate(c, r, act) for c in widths)
        self.update = nn.ModuleList(Gate(c, r, act) for c in widths) if gated else None
        self.conv1 = nn.ModuleList(conv(c, c, 3) for c in widths)
        self.conv2 = nn.ModuleList(conv(c, c, 3) for c in widths)

    def forward(
        self, encoded: list[Tensor], decoded: list[Tensor], previous: list[Tensor] | None
    ) -> list[Tensor]:
        outputs: list[Tensor] = []
        for i in range(3):
            o = self.conv1[i](self.fuse[i](encoded[i], decoded[i]))
            if self.update is not None and previous is not None:
                o = self.update[i](o, previous[i])
            outputs.append(self.conv2[i](o))
        return outputs


class UStage(nn.Module):
    """A U-shaped stage: `stage_in` without a previous stage, the `stage_mid`s with one."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU, *, middle: bool) -> None:
        super().__init__()
        self.shallow = ShallowFeature(config, config.features, act, gated=middle)
        self.encoder = Encoder(config, act, gated=middle)
        self.psf = PSFHead(config, act)
        self.decoder = Decoder(config, act)
        self.csff = CSFF(config, act, gated=middle)
        self.sam = SAM(config.features)
        self.gate = Gate(config.features, config.reduction, act) if middle else None

    def restore(
        self, rainy: Tensor, hidden: Tensor | None = None, fused: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """The stage's image, and before the hand-over to a next stage h, encoded and decoded features."""
        encoded = self.encoder(self.shallow(rainy, hidden), fused)
        decoded = self.decoder(encoded, self.psf(encoded))
        h, image = self.sam(decoded[0], rainy)  # [B,F,H,W], [B,3,H,W]
        return image, h, encoded, decoded

    def forward(
        self, rainy: Tensor, hidden: Tensor | None = None, fused: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        image, h, encoded, decoded = self.restore(rainy, hidden, fused)
        if self.gate is not None:
            h = self.gate(h, hidden)
        return image, h, self.csff(encoded, decoded, fused)


class ORB(nn.Module):
    """Original-resolution block: CABs and a 3x3 convolution, residual."""

    def __init__(self, channels: int, config: SDPSFNetConfig, act: nn.PReLU) -> None:
        super().__init__()
        self.cabs = nn.Sequential(*(CAB(channels, config.reduction, act) for _ in range(config.cabs)))
        self.conv = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.cabs(x)) + x


class ORStage(nn.Module):
    """Original-resolution stage: three ORBs, each followed by one level of the fused features."""

    def __init__(self, config: SDPSFNetConfig, act: nn.PReLU) -> None:
        super().__init__()
        f, s = config.features, config.scale_unet
        c = f + config.scale_orb
        self.shallow = ShallowFeature(config, c, act, gated=True)
        self.orbs = nn.ModuleList(ORB(c, config, act) for _ in range(3))
        self.up1 = Up(f, s)
        self.up2 = nn.Sequential(Up(f + s, s), Up(f, s))
        # Two more of the same stand in the authors' checkpoints and are used by nothing.
        self.unused_up1 = Up(f, s)
        self.unused_up2 = nn.Sequential(Up(f + s, s), Up(f, s))
        self.laterals = nn.ModuleList(conv(f, c, 1) for _ in range(3))
        self.tail = conv(c, 3, 3)

    def forward(self, rainy: Tensor, hidden: Tensor, fused: list[Tensor]) -> Tensor:
        h = self.shallow(rainy, hidden)  # [B,F+R,H,W]
        lifted = (fused[0], self.up1(fused[1]), self.up2(fused[2]))  # each [B,F,H,W]
        for orb, lateral, level in zip(self.orbs, self.laterals, lifted, strict=True):
            h = orb(h) + lateral(level)
        return self.tail(h) + rainy  # [B,3,H,W]


class SDPSFNet(nn.Module):
    """SD-PSFNet for any tau >= 0 and any widths.

    `forward(x)` takes float [B,3,H,W], RGB normalised with the ImageNet mean and deviation
    (`deploy.py`), H and W multiples of 4, and returns the tau + 2 stage images in the same
    space, in order; the last is the result. Every stage reads the original rainy image.
    """

    def __init__(self, config: SDPSFNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SDPSFNetConfig()
        act = nn.PReLU()  # one slope, shared by the whole network
        self.stage_in = UStage(config, act, middle=False)
        self.stage_mid = nn.ModuleList(UStage(config, act, middle=True) for _ in range(config.tau))
        self.stage_osr = ORStage(config, act)
        if config.ablation:
            from sdps.model.ablations import ablate

            ablate(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        image, hidden, fused = self.stage_in(x)
        images = [image]
        for stage in self.stage_mid:
            image, hidden, fused = stage(x, hidden, fused)
            images.append(image)
        return [*images, self.stage_osr(x, hidden, fused)]
