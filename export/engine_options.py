"""How an engine is to be built, and which builder offers what.

TensorRT and TensorRT-RTX share their API but not their abilities; an option that the chosen one
lacks is refused in one line before anything is built (RTX would ignore most of them in silence).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sdps.core.errors import UsageError

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
NAMES = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}
CURRENT = "current"
HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "same-cc": "SAME_COMPUTE_CAPABILITY"}
"""Our names of TensorRT's HardwareCompatibilityLevel."""


@dataclass(frozen=True)
class EngineOptions:
    """What the builder is told beyond the graph and the sizes; None, '' or () leaves its default.

    Attributes:
        workspace_mib: Most scratch memory the engine may plan with, in MiB.
        optimisation_level: 0 (fast build) to 5 (fast engine); the builder's default is 3.
        version_compatible: The engine also runs on other versions of the same major one, a bit
            slower. TensorRT only.
        hardware_compatible: 'ampere+' or 'same-cc': runs on other GPUs than the one that built
            it, slower. TensorRT only; RTX engines fit many GPUs anyway (`targets`).
        dla_core: Run on this deep learning accelerator of a Jetson, and on the GPU what it cannot
            do. TensorRT only.
        strip_weights: Leave the weights out; `refit.refit_engine` puts them in. Needs a GPU.
        targets: Compute capabilities to build for, e.g. ('8.6', '8.9'), or ('current',). RTX only.
    """

    workspace_mib: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: str = ""
    dla_core: int | None = None
    strip_weights: bool = False
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hardware_compatible and self.hardware_compatible not in HARDWARE_LEVELS:
            raise UsageError(
                f"There is no hardware compatibility {self.hardware_compatible!r}.",
                f"Choose {' or '.join(HARDWARE_LEVELS)}.",
            )
        if CURRENT in self.targets and len(self.targets) > 1:
            raise UsageError(
                "The target 'current' stands alone.", "Write the capabilities out, e.g. --targets 8.6,8.9."
            )
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise UsageError(
                f"There is no optimisation level {self.optimisation_level}.", "Choose from 0 to 5."
            )

    def to_sidecar(self) -> dict[str, Any]:
        """Only what was asked for; two engines with equal ones are built alike."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {key: value for key, value in values.items() if value not in (None, "", False, [])}

    def check(self, trt: Any, has_gpu: bool) -> None:
        """Holds the options to what a builder and this machine offer.

        Args:
            trt: The module, `tensorrt` or `tensorrt_rtx`.
            has_gpu: Whether there is a GPU to build on.

        Raises:
            UsageError: one of them is not to be had here; it says where.
        """
        if trt.__name__ == RTX:
            self._check_rtx(trt, has_gpu)
        elif self.targets:
            raise UsageError(
                "TensorRT builds for the GPU it finds; --targets is TensorRT-RTX's.",
                "Use --engine rtx, or --hardware-compatible with TensorRT.",
            )
        elif self.hardware_compatible == "same-cc" and not hasattr(
            trt.HardwareCompatibilityLevel, HARDWARE_LEVELS["same-cc"]
        ):
            raise UsageError(
                f"TensorRT {trt.__version__} has no --hardware-compatible same-cc.",
                "TensorRT 10.6 and later have it; ampere+ is older.",
            )

    def _check_rtx(self, trt: Any, has_gpu: bool) -> None:
        only_tensorrt = {
            "--version-compatible": self.version_compatible,
            "--hardware-compatible": bool(self.hardware_compatible),
            "--dla": self.dla_core is not None,
        }
        for flag, asked in only_tensorrt.items():
            if asked:
                remedy = "Use --targets for other GPUs." if flag == "--hardware-compatible" else ""
                raise UsageError(
                    f"TensorRT-RTX has no {flag}; TensorRT proper has it (--engine tensorrt).", remedy
                )
        if not has_gpu and (self.strip_weights or CURRENT in self.targets):
            flag = "--strip-weights" if self.strip_weights else "--targets current"
            raise UsageError(f"{flag} needs a GPU with its driver on this machine.", "Build without it here.")
        known = rtx_targets(trt)
        for target in self.targets:
            if target not in known:
                raise UsageError(
                    f"TensorRT-RTX {trt.__version__} does not build for {target!r}.",
                    f"It knows {', '.join(known)}.",
                )


def rtx_targets(trt: Any) -> dict[str, Any]:
    """The compute capabilities that the installed TensorRT-RTX builds for: '8.6' to its enum."""
    members = trt.ComputeCapability.__members__
    numbers = {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}
    return {**numbers, CURRENT: members["CURRENT"]}
