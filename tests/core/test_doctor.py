"""The doctor: what it reads, what it concludes, and that nothing takes it down."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdps.core import jetson as jetsons
from sdps.core import machine, packages, video_devices
from sdps.core.doctor import ASKED, Facts, Library, examine, isolated, judge
from sdps.core.free_memory import memory
from sdps.core.problems import problems
from sdps.core.verdicts import Ability, abilities, rtx_runs
from sdps.core.video_devices import Camera, CameraFormat, CameraSize

DPKG = """Package: nvidia-jetpack
Status: install ok installed
Version: 6.2+b77

Package: libnvinfer10
Status: install ok installed
Version: 10.3.0.30-1+cuda12.5

Package: libnvinfer8
Status: deinstall ok config-files
Version: 8.6.2.3-1+cuda12.2

Package: bash
Status: install ok installed
Version: 5.1-6ubuntu1.1
"""
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: ...\n"
NVPMODEL = (
    "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """The files of an Orin Nano with JetPack 6.2, as far as the doctor reads them."""
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path / "etc/nv_tegra_release", RELEASE)
    write(tmp_path / "etc/nvpmodel.conf", NVPMODEL)
    write(tmp_path / "var/lib/dpkg/status", DPKG)
    write(tmp_path / "usr/lib/python3.10/dist-packages/tensorrt/__init__.py", "")
    write(tmp_path / "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n')
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n")
    return tmp_path


def healthy(**changes: Any) -> Facts:
    """Facts of a machine that lacks nothing on the CPU and has no GPU."""
    facts: dict[str, dict[str, Any]] = {
        "av": {"encoders": ["libx264"]},
        "PIL": {"lacks": []},
        "cv2": {"gstreamer": False},
        "onnxruntime": {"providers": ["CPUExecutionProvider"]},
        "pygame": {"display": "x11"},
    }
    found = {name: Library("ok", "1.2.3", "", facts.get(name, {})) for name in ASKED}
    found["tensorrt"] = found["tensorrt_rtx"] = Library("missing")
    system = machine.System("Linux", "6.1", "x86_64", "3.10.12", "python", True, False, False, False)
    return replace(Facts(system=system, libraries=found, models=["sdps-nano.onnx"]), **changes)


def ability(facts: Facts, name: str) -> Ability:
    return next(ability for ability in abilities(facts) if ability.name == name)


def remedies(facts: Facts) -> str:
    return "\n".join(f"{problem.what} | {problem.remedy}" for problem in problems(facts))


def test_a_jetson_is_read_from_its_files(orin: Path) -> None:
    board = jetsons.jetson(orin)
    assert board is not None
    assert board.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (board.l4t, board.jetpack, board.tensorrt) == ("36.4.3", "6.2", "10.3.0.30")
    assert (board.bindings, board.fastest_mode) == ("3.10", "2 MAXN_SUPER")
    assert board.release is not None and board.release.supported
    assert machine.cpu(orin).model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert machine.cpu(orin).features == ["asimd", "asimddp"]
    assert machine.system(orin).os == "Ubuntu 22.04.5 LTS"
    assert jetsons.jetson(orin / "proc") is None


@pytest.mark.parametrize(
    ("l4t", "jetpack", "supported"),
    [("35.4.1", "5.1", False), ("36.3.0", "6.0", False), ("36.4.0", "6.1", True), ("38.2.0", "7.0", True)],
)
def test_jetpack_is_told_from_jetson_linux(orin: Path, l4t: str, jetpack: str, supported: bool) -> None:
    (orin / "var/lib/dpkg/status").unlink()
    major, _, rest = l4t.partition(".")
    write(orin / "etc/nv_tegra_release", f"# R{major} (release), REVISION: {rest}, GCID: 1\n")
    board = jetsons.jetson(orin)
    assert board is not None and board.release is not None
    assert (board.jetpack, board.release.supported) == (jetpack, supported)
    assert ("SDK Manager" in remedies(healthy(jetson=board))) is not supported


def test_a_tensorrt_from_pip_that_hides_jetpacks_is_named(orin: Path) -> None:
    board = jetsons.jetson(orin)
    system_file = "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"
    assert "hides" not in remedies(healthy(jetson=board, tensorrt_file=system_file))
    for file in (
        "/home/u/.venv/lib/python3.10/site-packages/tensorrt/__init__.py",
        "/usr/local/lib/python3.10/dist-packages/tensorrt/__init__.py",  # sudo pip install
    ):
        facts = healthy(jetson=board, tensorrt_file=file, tensorrt_packages=["tensorrt", "tensorrt-cu12"])
        assert "uninstall -y tensorrt tensorrt-cu12" in remedies(facts)


def test_how_jetpacks_tensorrt_comes_into_this_python(orin: Path) -> None:
    facts = healthy(jetson=jetsons.jetson(orin))
    assert facts.system is not None
    assert "include-system-site-packages = true" in ability(facts, "engine_tensorrt").remedy
    other = replace(facts, system=replace(facts.system, python="3.12.3"))
    assert "bindings are for Python 3.10, this is 3.12.3" in ability(other, "engine_tensorrt").remedy
    (orin / "usr/lib/python3.10/dist-packages/tensorrt/__init__.py").unlink()
    (orin / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
    bare = replace(facts, jetson=jetsons.jetson(orin))
    assert "python3-libnvinfer" in ability(bare, "engine_tensorrt").remedy


def test_power_mode_and_clocks() -> None:
    assert jetsons.parse_power_mode("NV Power Mode: 15W\n0\n") == "15W"
    free = "GPU MinFreq=306000000 MaxFreq=624750000 CurrentFreq=306000000\nFAN Dynamic Speed control=active"
    assert jetsons.parse_clocks(free) is False
    assert jetsons.parse_clocks(free.replace("MinFreq=306000000", "MinFreq=624750000")) is True
    assert jetsons.parse_clocks("Error: needs root") is None
    board = jetsons.Jetson("Orin", "36.4.3", "6.2", "10.3", "3.10", "15W", "2 MAXN_SUPER", False)
    told = remedies(healthy(jetson=board))
    assert "sudo nvpmodel -m 2" in told and "sudo jetson_clocks" in told


@pytest.mark.parametrize(
    ("files", "cores", "gigabytes"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000", "sys/fs/cgroup/memory.max": "2000000000"}, 1.5, 2.0),
        ({"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}, 0.0, 8.2),
        ({"sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0, 8.2),
    ],
)
def test_the_limits_of_a_control_group(
    tmp_path: Path, files: dict[str, str], cores: float, gigabytes: float
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", "500000000")
    for name, text in files.items():
        write(tmp_path / name, text + "\n")
    assert machine.cpu_quota(tmp_path) == cores
    assert memory(tmp_path).total_gb == gigabytes


def test_the_limits_of_an_old_control_group(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/x\n1:cpu,cpuacct:/x\n")
    write(tmp_path / "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n")
    assert machine.cpu_quota(tmp_path) == 0.5
    write(tmp_path / "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n")
    assert machine.cpu_quota(tmp_path) == 0.0


def test_the_requests_are_those_of_the_kernels_header() -> None:
    assert video_devices.QUERYCAP == 0x80685600
    assert video_devices.ENUM_FMT == 0xC0405602
    assert video_devices.ENUM_FRAMESIZES == 0xC02C564A
    assert video_devices.ENUM_FRAMEINTERVALS == 0xC034564B


def answered(request: int, argument: bytes) -> bytes:
    """The bytes with which a USB camera of MJPG (two sizes) and YUYV (any size) answers."""
    index, pixels = struct.unpack_from("<II", argument)
    mjpg, yuyv = (struct.unpack("<I", name)[0] for name in (b"MJPG", b"YUYV"))

    def padded(raw: bytes) -> bytes:
        return raw.ljust(len(argument), b"\0")

    if request == 0x80685600:
        names = b"uvcvideo".ljust(16, b"\0") + b"HD Webcam".ljust(32, b"\0") + b"usb-0000".ljust(32, b"\0")
        return padded(names + struct.pack("<III", 0x60100, 0x84A00001, 0x04200001))
    if request == 0xC0405602 and index < 2:
        name = (b"Motion-JPEG", b"YUYV 4:2:2")[index].ljust(32, b"\0")
        return padded(struct.pack("<III", index, 1, 0) + name + struct.pack("<I", (mjpg, yuyv)[index]))
    if request == 0xC02C564A and pixels == mjpg and index < 2:
        return padded(struct.pack("<5I", index, mjpg, 1, *((1280, 720), (640, 480))[index]))
    if request == 0xC02C564A and pixels == yuyv and index == 0:
        return padded(struct.pack("<9I", 0, yuyv, 3, 32, 800, 16, 32, 600, 16))
    if request == 0xC034564B and index < 2:
        return padded(argument[:16] + struct.pack("<3I", 1, *((1, 15), (1001, 30000))[index]))
    raise OSError(errno.EINVAL, "Invalid argument")


def test_a_cameras_answers_are_understood() -> None:
    camera = video_devices.query("/dev/video0", answered)
    rates = [29.97, 15.0]
    assert camera == Camera(
        "/dev/video0",
        "HD Webcam",
        "uvcvideo",
        [
            CameraFormat("MJPG", "Motion-JPEG", [CameraSize(1280, 720, rates), CameraSize(640, 480, rates)]),
            CameraFormat("YUYV", "YUYV 4:2:2", [CameraSize(800, 600, rates, up_to=True)]),
        ],
    )
    facts = healthy(cameras=[camera])
    assert ability(facts, "run_camera").can
    assert "--camera /dev/video0" in ability(facts, "run_camera").why


def test_only_csi_cameras_miss_opencv() -> None:
    usb, csi = Camera("/dev/video0", "HD Webcam"), Camera("/dev/video1", "imx219", "tegra-video")
    bare = healthy().libraries | {"cv2": Library("missing")}
    assert ability(healthy(libraries=bare), "run_files").can
    webcam = ability(healthy(libraries=bare, cameras=[usb]), "run_camera")
    assert webcam.can and "through PyAV" in webcam.why
    assert "through OpenCV" in ability(healthy(cameras=[usb]), "run_camera").why
    board = ability(healthy(libraries=bare, cameras=[csi]), "run_camera")
    assert not board.can and "libopencv-python" in board.remedy
    without = healthy().libraries | {"PIL": Library("missing")}
    assert not ability(healthy(libraries=without), "run_files").can


def test_a_node_for_metadata_is_no_camera() -> None:
    def metadata(request: int, argument: bytes) -> bytes:
        return bytes(80) + struct.pack("<III", 0x60100, 0x84A00001, 0x04A00000) + bytes(12)

    assert video_devices.query("/dev/video1", metadata) is None


@pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is Linux's")
def test_a_file_that_is_no_camera_and_no_file_at_all(tmp_path: Path) -> None:
    assert video_devices.cameras(tmp_path) == []
    write(tmp_path / "dev/video3", "not a camera")
    (camera,) = video_devices.cameras(tmp_path)
    assert "no V4L2 device" in camera.error
    assert not ability(healthy(cameras=[camera]), "run_camera").can


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_a_camera_that_this_user_may_not_open(tmp_path: Path) -> None:
    write(tmp_path / "dev/video0", "")
    (tmp_path / "dev/video0").chmod(0)
    assert video_devices.cameras(tmp_path)[0].refused


def test_the_group_video_is_the_remedy_for_a_refused_camera() -> None:
    facts = healthy(cameras=[Camera("/dev/video0", error="Permission denied", refused=True)])
    assert ability(facts, "run_camera").remedy.startswith("sudo usermod -aG video $USER")


def test_probes_that_fail_or_hang_become_a_line() -> None:
    def fail() -> None:
        raise OSError("no such thing")

    values, failed = isolated({"fails": fail, "hangs": lambda: time.sleep(30), "works": lambda: 1}, 1)
    assert values == {"works": 1}
    assert failed == {"fails": "OSError: no such thing", "hangs": "no answer in 1 s"}
    assert "fails: OSError: no such thing" in remedies(healthy(failed=failed))


def test_two_builds_that_overwrite_each_other() -> None:
    facts = healthy(ort_builds=list(packages.ORT_BUILDS))
    assert packages.ORT_MEND in remedies(facts)
    assert remedies(healthy(ort_builds=["onnxruntime"], opencv_builds=["opencv-python"])) == ""


@pytest.mark.parametrize(
    ("capability", "runs"), [("7.5", True), ("8.7", False), ("9.0", False), ("11.0", False), ("12.1", True)]
)
def test_the_gpus_of_tensorrt_rtx(capability: str, runs: bool) -> None:
    assert rtx_runs(capability) is runs
    found = healthy().libraries | {"tensorrt_rtx": Library("ok", "1.7.1.116")}
    gpu = {"name": "a GPU", "compute_capability": capability, "cuda_driver": "13.0"}
    built = ability(healthy(libraries=found, gpu=gpu), "engine_rtx")
    assert built.can and ("cannot run them" in built.why) is not runs


def test_a_gpu_without_a_provider_and_one_with() -> None:
    gpu = {"name": "a GPU", "compute_capability": "8.6", "cuda_driver": "12.6"}
    without = ability(healthy(gpu=gpu), "gpu")
    assert not without.can and without.remedy.endswith("install 'sdps[gpu]'")
    ort = Library("ok", "1.20", "", {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    facts = healthy(gpu=gpu, libraries=healthy().libraries | {"onnxruntime": ort})
    assert ability(facts, "gpu").can
    ran = {"backend": "openvino:CPU", "reason": "CUDAExecutionProvider does not load on this machine."}
    fell_back = ability(replace(facts, run=ran), "gpu")
    assert not fell_back.can and "does not load" in fell_back.why


@pytest.mark.parametrize(("capability", "driver"), [("8.6", "12.6"), ("8.7", "12.6")])
def test_what_running_an_engine_file_takes(capability: str, driver: str) -> None:
    gpu = {"name": "a GPU", "compute_capability": capability, "cuda_driver": driver}
    assert not ability(healthy(gpu=gpu, cuda_bindings=["cuda-bindings"]), "run_engine").can
    rtx = healthy().libraries | {"tensorrt_rtx": Library("ok", "1.7.1")}
    facts = healthy(gpu=gpu, libraries=rtx, cuda_bindings=["cuda-bindings"])
    assert ability(facts, "run_engine").can is (capability == "8.6")
    trt = healthy(gpu=gpu, libraries=healthy().libraries | {"tensorrt": Library("ok", "10.3.0")})
    assert "cuda-python==12.*" in ability(trt, "run_engine").remedy
    assert ability(replace(trt, cuda_bindings=["pycuda"]), "run_engine").can
    old = healthy(gpu=gpu, libraries=healthy().libraries | {"tensorrt": Library("ok", "8.6.2")})
    assert not ability(replace(old, cuda_bindings=["pycuda"]), "run_engine").can


def test_a_missing_extra_stops_what_needs_it_and_nothing_else() -> None:
    facts = healthy(lacking={"export": "onnx is not installed", "bench": "onnx is not installed"})
    assert ability(facts, "export").remedy.endswith("install 'sdps[export]'")
    assert not ability(facts, "export").can and not ability(facts, "bench").can
    assert ability(facts, "run_files").can and ability(facts, "train").can


def test_the_verdict_is_that_of_the_run() -> None:
    good = {"model": "m", "backend": "b", "reason": "", "size": "8x8", "seconds": 1.0, "changed": True}
    assert judge(healthy(run=good | {"likeness": 0.9})).works
    black = judge(healthy(run=good | {"likeness": 0.0}))
    assert not black.works and "no derained picture" in black.verdict
    assert not judge(healthy(run=good | {"likeness": 1.0, "changed": False})).works
    assert not judge(healthy(run={"error": "crashes (SIGILL)"})).works
    assert judge(healthy()).works
    assert not judge(healthy(libraries=healthy().libraries | {"av": Library("missing")})).works


def test_this_machine_is_examined_for_real() -> None:
    facts = examine(run=True)
    report = judge(facts)
    assert report.works, report.verdict
    assert facts.run is not None and facts.run["model"] == "sdps-nano"
    assert facts.failed == {}
    assert "sdps-nano.onnx" in facts.models
    assert "libx264" in facts.libraries["av"].facts["encoders"]
    json.dumps(report.to_json())


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from sdps.core.doctor_cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **environment},
    )


def test_the_command_says_no_where_a_library_is_broken(tmp_path: Path) -> None:
    write(tmp_path / "av.py", "raise ImportError('libavcodec.so.62 is not there')")
    done = command("--no-run", "--json", PYTHONPATH=str(tmp_path), A_SECRET_OF_MINE="hunter2")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["works"] is False and "libavcodec.so.62" in report["verdict"]
    assert report["libraries"]["av"]["state"] == "broken"
    assert "hunter2" not in done.stdout and str(Path.home()) + "/" not in done.stdout


def test_the_json_has_the_documented_keys_and_no_others() -> None:
    text = (Path(__file__).parents[2] / "docs/doctor.md").read_text(encoding="utf-8")
    report = judge(healthy()).to_json()
    for key in report:
        assert f"| `{key}` |" in text, key
    for one in report["abilities"]:
        assert f"`{one['name']}`" in text


def test_the_text_puts_the_verdict_first_and_never_breaks_a_command() -> None:
    from io import StringIO

    from rich.console import Console

    from sdps.core.doctor_view import show

    facts = healthy(ort_builds=list(packages.ORT_BUILDS), libraries=healthy().libraries)
    for width in (60, 80, 120):
        out = StringIO()
        show(judge(facts), Console(file=out, width=width))
        lines = out.getvalue().splitlines()
        assert lines[0].startswith("yes  sdps")
        assert f"    {packages.ORT_MEND}" in lines
