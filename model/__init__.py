"""The network, its checkpoints, and the wrapper that is exported."""

from sdps.model.checkpoint import load_checkpoint, save_checkpoint
from sdps.model.psfnet import SDPSFNet, SDPSFNetConfig

__all__ = ["SDPSFNet", "SDPSFNetConfig", "load_checkpoint", "save_checkpoint"]
