"""The wheel holds one package, all of it, and the layering holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sdps.benchmarks.install import closure

ROOT = Path(__file__).parents[1]
ROOMS = ("assets", "benchmarks", "calibration", "core", "export", "model", "runtime", "training")
ALLOWED = {
    "assets": set(),
    "core": set(),
    "model": {"core"},
    "calibration": {"core", "model"},
    "export": {"core", "model", "calibration"},
    # The runtime to read pictures and to evaluate what users run; the other two for --qat.
    "training": {"core", "model", "runtime", "calibration", "export"},
    "runtime": {"core", "model"},  # model only in the PyTorch reference backend, inside functions
    "benchmarks": {"core", "model", "training", "export", "calibration", "runtime"},
}
INSIDE = {"calibration": {"training", "runtime"}}
"""What a room uses inside functions only: calibration for rain on photographs, and for films in the runtime's
colours."""
ELSEWHERE = {"core/child_probe.py": {"runtime"}}
"""What a file uses inside functions that never run in the process of who imports its room: the doctor's child
derains a picture as a user's program would."""
EXPORTED = {"Derainer": "sdps.runtime.derainer", "__version__": "sdps.core.version"}
"""Where the names of `sdps` itself come from."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_only_top_level_package_is_sdps(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sdps"}


def test_every_module_and_data_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert f"sdps/{path.relative_to(ROOT)}" in names
    for data in (
        "py.typed",
        "assets/rain.mp4",
        "assets/LICENSES.md",
        "training/photos.csv",
        "runtime/models/sdps-nano.onnx",
        "runtime/models/sdps-nano-int8.onnx",
        "runtime/models/sdps-small.onnx",
        "runtime/models/sdps-small-int8.onnx",
        "model/weights/sdps-nano.safetensors",
        "model/weights/sdps-small.safetensors",
    ):
        assert f"sdps/{data}" in names


def test_nothing_generated_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".engine", ".pt", ".tmp"))]
    assert sum(info.compress_size for info in wheel.infolist()) < 30e6


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Modules that a file imports: all, or those imported when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if top_level and node in inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "sdps":
            found |= {EXPORTED.get(alias.name, f"sdps.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "from sdps import Derainer",
        "from sdps import runtime",
        "import sdps.runtime",
        "from sdps.runtime import x",
    ],
)
def test_a_room_is_known_however_it_is_imported(text: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(text)
    (found,) = imports(tmp_path / "module.py", top_level=True)
    assert found.split(".")[1] == "runtime"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_depend_one_way_only(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        at_top, anywhere = (
            {m.split(".")[1] for m in imports(path, top_level=top) if m.startswith("sdps.")}
            for top in (True, False)
        )
        assert at_top - {room} <= ALLOWED[room], path
        inside = INSIDE.get(room, set()) | ELSEWHERE.get(path.relative_to(ROOT).as_posix(), set())
        assert anywhere - {room} <= ALLOWED[room] | inside, path


@pytest.mark.parametrize("room", ["core", "runtime"])
def test_the_runtime_never_loads_torch(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        loaded = {module.split(".")[0] for module in imports(path, top_level=True)}
        assert not loaded & {"torch", "onnx", "onnxscript"}, path
        assert not {m for m in imports(path, top_level=True) if m.startswith("sdps.model")}, path


def test_the_cpu_install_holds_what_runs_and_nothing_that_trains() -> None:
    installed = set(closure("cpu"))
    assert {"sdps", "numpy", "av", "onnxruntime", "openvino", "pillow"} <= installed
    assert not installed & {"torch", "onnx", "onnxscript", "scikit-image", "matplotlib", "scipy"}
    assert not [name for name in installed if name.startswith("opencv")]


def test_running_and_exporting_bring_no_opencv() -> None:
    """Which on a Jetson would hide JetPack's own, built with GStreamer."""
    declared = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"^(\w+) = (\[.*\])$", declared, re.MULTILINE)
    assert {name for name, asked in extras if "opencv" in asked} == {"camera", "int8", "train", "bench"}


def test_every_command_runs_as_a_module_too() -> None:
    """Where scripts are not on the path; `python -m` would otherwise say nothing and succeed."""
    declared = (ROOT / "pyproject.toml").read_text()
    commands = re.findall(r'^sdps-\w+ = "([\w.]+):main"$', declared, re.MULTILINE)
    assert len(commands) == 6
    for module in commands:
        run = [sys.executable, "-m", module, "--version"]
        assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip(), module
