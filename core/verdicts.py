"""What sdps can do on a machine of which the facts are known, and the command for what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdps.core import packages
from sdps.core.jetson import TENSORRT_MINIMUM
from sdps.core.remedies import JETPACK, pip, pip_command, pip_extra, tensorrt_remedy

if TYPE_CHECKING:
    from sdps.core.doctor import Facts

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9")
"""Compute capabilities that TensorRT-RTX runs on, beside all 12.x; not Orin (8.7), Hopper, Thor."""
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@dataclass(frozen=True)
class Ability:
    """One thing that sdps does: whether it can here, why (not), and the command that mends it."""

    name: str
    title: str
    can: bool
    why: str
    remedy: str = ""


def abilities(facts: Facts) -> list[Ability]:
    """Everything sdps does, in the order of README.md. The names are stable."""
    return [
        _files(facts),
        _camera(facts),
        _window(facts),
        _cpu_engines(facts),
        _gpu_engines(facts),
        _engine_files(facts),
        _extra(facts, "export", "export graphs", "export", engine=True),
        _extra(facts, "int8", "export INT8", "int8", engine=True),
        _tensorrt(facts),
        _rtx(facts),
        _extra(facts, "train", "train", "train"),
        _extra(facts, "bench", "measure (sdps-bench)", "bench", engine=True),
    ]


def _files(facts: Facts) -> Ability:
    engines = _engines(facts)
    lacking = _broken(facts, "av", "PIL") + [name for name in ("av", "PIL") if _missing(facts, name)]
    if lacking:
        return Ability("run_files", "run on files", False, _why(facts, lacking), pip("cpu"))
    if not engines:
        return Ability("run_files", "run on files", False, "no inference engine works", pip(_kind(facts)))
    if not facts.models:
        return Ability(
            "run_files",
            "run on files",
            False,
            "the bundled model is not there",
            f"{pip_command()} install --force-reinstall --no-deps .   # in the folder of sdps's source",
        )
    found = facts.libraries["av"].facts.get("encoders", [])
    h264 = "" if "libx264" in found else "; PyAV has no libx264: videos only as .webm"
    return Ability("run_files", "run on files", True, f"pictures and videos, with {', '.join(engines)}{h264}")


def _camera(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("run_camera", "run on a camera", False, why, remedy)

    opencv = facts.libraries["cv2"]
    if not opencv.usable and not facts.libraries["av"].usable:
        return no(_why(facts, ["av"]), pip("cpu"))
    readable = [camera for camera in facts.cameras if not camera.error]
    if not readable:
        return no(*_no_camera(facts))
    # A CSI camera is read only where there is no other: it needs more.
    first = next((camera for camera in readable if not camera.csi), readable[0])
    if first.csi and not opencv.facts.get("gstreamer"):
        return no(
            "CSI cameras need OpenCV with GStreamer, as JetPack's is",
            f"{pip_command()} uninstall -y opencv-python-headless opencv-python"
            " && sudo apt install libopencv-python",
        )
    how = "--input csi://0" if first.csi else f"--camera {first.device}"
    through = "OpenCV" if opencv.usable else "PyAV"
    return Ability("run_camera", "run on a camera", True, f"sdps-run {how} ({first.name}, through {through})")


def _no_camera(facts: Facts) -> tuple[str, str]:
    """Why none can be read, and what mends it."""
    if refused := [camera.device for camera in facts.cameras if camera.refused]:
        mend = "sudo usermod -aG video $USER   # then log in again"
        return f"{', '.join(refused)}: not this user's to open", mend
    if facts.system and facts.system.container:
        return "no camera in this container", "docker run --device /dev/video0 ..."
    if facts.cameras:
        return f"{facts.cameras[0].device}: {facts.cameras[0].error}", ""
    return "no camera is connected (rtsp:// and http:// streams work)", ""


def _window(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("run_window", "show in a window", False, why, remedy)

    pygame = facts.libraries["pygame"]
    if not pygame.usable:
        return no(_why(facts, ["pygame"]), pip("window"))
    if error := pygame.facts.get("display_error"):
        return no(f"the display cannot be opened: {error}")
    display = pygame.facts.get("display", "")
    if display in ("", "dummy", "offscreen"):
        return no("no display here (no X or Wayland session); give --output FILE")
    return Ability("run_window", "show in a window", True, f"through {display}")


def _cpu_engines(facts: Facts) -> Ability:
    names = _engines(facts)
    if names:
        return Ability("cpu", "engines on the CPU", True, ", ".join(names))
    lacking = ["onnxruntime", "openvino"]
    return Ability("cpu", "engines on the CPU", False, _why(facts, lacking), pip("cpu"))


def _gpu_engines(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("gpu", "engines on the GPU", False, why, remedy)

    if facts.gpu is None:
        return no(*_no_gpu(facts))
    ort = facts.libraries["onnxruntime"]
    names = [name for name in GPU_PROVIDERS if name in ort.facts.get("providers", [])]
    if ort.state == "broken":
        return no(_why(facts, ["onnxruntime"]), pip("gpu"))
    if not names:
        remedy = f"{pip_command()} uninstall -y onnxruntime && {pip('gpu')}"
        if facts.jetson:
            return no("ONNX Runtime has no GPU provider; PyPI has none for Jetson either")
        return no("the installed ONNX Runtime has no GPU provider", remedy)
    ran_elsewhere = facts.run and "error" not in facts.run and "CUDA" not in facts.run["backend"]
    if ran_elsewhere and facts.run:
        return no(f"ONNX Runtime has {', '.join(names)}, but {facts.run['reason'] or 'it was not picked'}")
    return Ability("gpu", "engines on the GPU", True, f"ONNX Runtime: {', '.join(names)}")


def _engine_files(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("run_engine", "run engine files", False, why, remedy)

    if facts.gpu is None:
        return no(*_no_gpu(facts))
    capability = facts.gpu["compute_capability"]
    tensorrt, rtx = facts.libraries["tensorrt"], facts.libraries["tensorrt_rtx"]
    names = []
    if tensorrt.usable and packages.numbers(tensorrt.version) >= packages.numbers(TENSORRT_MINIMUM):
        names.append(f"TensorRT {tensorrt.version}")
    if rtx.usable and rtx_runs(capability):
        names.append(f"TensorRT-RTX {rtx.version}")
    if not names:
        if rtx_runs(capability) and not facts.jetson:
            return no("neither TensorRT-RTX nor TensorRT is usable here", pip("rtx"))
        return no(
            f"no TensorRT from {TENSORRT_MINIMUM} on; TensorRT-RTX does not run on {capability}",
            tensorrt_remedy(facts),
        )
    if not facts.cuda_bindings:
        version = facts.gpu["cuda_driver"].split(".")[0] + ".*"
        return no("no CUDA binding is installed", f"{pip_command()} install 'cuda-python=={version}'")
    return Ability("run_engine", "run engine files", True, f"{', '.join(names)}; {facts.cuda_bindings[0]}")


def _tensorrt(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("engine_tensorrt", "build TensorRT engines", False, why, remedy)

    library = facts.libraries["tensorrt"]
    if library.state == "missing" and facts.gpu is None and facts.jetson is None:
        return no("it builds for the GPU that it finds, and there is none")
    if not library.usable:
        return no(_why(facts, ["tensorrt"]), tensorrt_remedy(facts))
    if packages.numbers(library.version) < packages.numbers(TENSORRT_MINIMUM):
        return no(
            f"TensorRT {library.version} is older than {TENSORRT_MINIMUM}",
            JETPACK if facts.jetson else pip("tensorrt"),
        )
    if facts.gpu is None:
        return no(f"TensorRT {library.version} is here, but {_no_gpu(facts)[0]}", _no_gpu(facts)[1])
    if why := facts.lacking.get("export"):
        return no(why, pip_extra(facts, "export"))
    return Ability("engine_tensorrt", "build TensorRT engines", True, f"TensorRT {library.version}")


def _rtx(facts: Facts) -> Ability:
    def no(why: str, remedy: str = "") -> Ability:
        return Ability("engine_rtx", "build TensorRT-RTX engines", False, why, remedy)

    library = facts.libraries["tensorrt_rtx"]
    if not library.usable:
        if facts.system and facts.system.machine not in ("x86_64", "AMD64"):
            return no("TensorRT-RTX is for x86-64 only; TensorRT is what runs here")
        return no(_why(facts, ["tensorrt_rtx"]), pip("rtx"))
    if why := facts.lacking.get("export"):
        return no(why, pip_extra(facts, "export"))
    where = "this machine has no GPU to run them"
    if facts.gpu:
        capability = facts.gpu["compute_capability"]
        can = "can" if rtx_runs(capability) else "cannot"
        where = f"this GPU (compute capability {capability}) {can} run them"
    return Ability(
        "engine_rtx", "build TensorRT-RTX engines", True, f"TensorRT-RTX {library.version}; {where}"
    )


def _extra(facts: Facts, name: str, title: str, extra: str, engine: bool = False) -> Ability:
    if why := facts.lacking.get(extra):
        return Ability(name, title, False, why, pip_extra(facts, extra))
    torch = facts.libraries["torch"]
    if torch.state == "broken":
        return Ability(
            name, title, False, _why(facts, ["torch"]), f"{pip_command()} install --force-reinstall torch"
        )
    if engine and not facts.libraries["onnxruntime"].usable:
        why = "ONNX Runtime, which checks each graph, is not there"
        return Ability(name, title, False, why, pip(_kind(facts)))
    gpu = "on the GPU" if torch.facts.get("cuda_works") else "on the CPU"
    return Ability(name, title, True, f"PyTorch {torch.version} {gpu}")


def rtx_runs(capability: str) -> bool:
    """Whether TensorRT-RTX runs on GPUs of a compute capability, e.g. '8.6'."""
    return capability in RTX_CAPABILITIES or capability.split(".")[0] == "12"


def _kind(facts: Facts) -> str:
    return "gpu" if facts.gpu and not facts.jetson else "cpu"


def _no_gpu(facts: Facts) -> tuple[str, str]:
    if "gpu" in facts.failed:
        return facts.failed["gpu"], ""
    if facts.smi and facts.smi.name:
        return f"CUDA does not see the {facts.smi.name}", ""
    if facts.system and facts.system.container and facts.jetson is None:
        return "no NVIDIA GPU is seen in this container", "docker run --gpus all ...   # if the host has one"
    return "no NVIDIA GPU, or no driver for it", ""


def _engines(facts: Facts) -> list[str]:
    names = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
    return [
        f"{title} {facts.libraries[name].version}"
        for name, title in names.items()
        if facts.libraries[name].usable
    ]


def _missing(facts: Facts, name: str) -> bool:
    return facts.libraries[name].state == "missing"


def _broken(facts: Facts, *names: str) -> list[str]:
    return [name for name in names if facts.libraries[name].state == "broken"]


def _why(facts: Facts, names: list[str]) -> str:
    texts = []
    for name in names:
        library = facts.libraries[name]
        texts.append(f"{name} {'is not installed' if library.state == 'missing' else library.error}")
    return "; ".join(texts)
