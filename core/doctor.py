"""The doctor: gathers the facts of this machine and says what sdps can do with them, and why not.

`examine` looks, `judge` concludes; the second is a pure function of the first's facts.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdps.core import libraries, machine, packages
from sdps.core.free_memory import Memory, memory
from sdps.core.jetson import Jetson, jetson
from sdps.core.problems import Problem, problems
from sdps.core.verdicts import Ability, abilities
from sdps.core.version import __version__
from sdps.core.video_devices import Camera, cameras

FORMAT = 1
"""Of the JSON; raised when a key goes or changes its meaning, not when one comes."""
ASKED = ("av", "PIL", "cv2", "onnxruntime", "openvino", "pygame", "tensorrt", "tensorrt_rtx", "torch")
EXTRAS = ("export", "int8", "train", "bench")
SECONDS = 20.0
"""How long reading the machine may take. A dead network disk or a stuck camera takes for ever."""


@dataclass(frozen=True)
class Library:
    """One library.

    Attributes:
        state: 'ok', 'missing', 'broken', or 'installed' if it was not imported.
        version: '' if missing.
        error: What happened when it was imported.
        facts: What it said of itself, e.g. {'providers': [...]}.
    """

    state: str
    version: str = ""
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return self.state in ("ok", "installed")


@dataclass
class Facts:
    """Everything that was seen. What could not be seen is None or empty, and named in `failed`.

    Attributes:
        gpu: The first GPU that CUDA sees: name, compute_capability, cuda_driver.
        tensorrt_file: Where `import tensorrt` would find it; '' if nowhere.
        cuda_bindings, tensorrt_packages, ort_builds, opencv_builds: Installed packages of pip of each kind.
        lacking: What each extra lacks, '' if nothing, e.g. {'export': 'onnx is not installed'}.
        models: Files of the bundled models.
        run: What deraining a small picture gave; None if it was not tried.
    """

    system: machine.System | None = None
    cpu: machine.Cpu | None = None
    memory: Memory | None = None
    disk: machine.Disk | None = None
    smi: machine.Smi | None = None
    gpu: dict[str, str] | None = None
    jetson: Jetson | None = None
    tensorrt_file: str = ""
    cuda_bindings: list[str] = field(default_factory=list)
    tensorrt_packages: list[str] = field(default_factory=list)
    ort_builds: list[str] = field(default_factory=list)
    opencv_builds: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    cameras: list[Camera] = field(default_factory=list)
    libraries: dict[str, Library] = field(default_factory=dict)
    run: dict[str, Any] | None = None
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The diagnosis. `works`: the main job, deraining a picture here, can be done."""

    works: bool
    verdict: str
    facts: Facts
    abilities: list[Ability]
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """The keys that docs/doctor.md documents."""
        return {
            "format": FORMAT,
            "sdps": __version__,
            "works": self.works,
            "verdict": self.verdict,
            "abilities": [asdict(ability) for ability in self.abilities],
            "problems": [asdict(problem) for problem in self.problems],
            **asdict(self.facts),
        }


def examine(run: bool = True, root: Path = machine.ROOT) -> Facts:
    """Looks at the machine.

    Args:
        run: Derain a small picture with the bundled model.
        root: Whose files to read; libraries, GPU and run are always this machine's.
    """
    facts = Facts()
    probes: dict[str, Callable[[], Any]] = {
        "system": lambda: machine.system(root),
        "cpu": lambda: machine.cpu(root),
        "memory": lambda: memory(root),
        "disk": machine.disk,
        "smi": machine.smi,
        "jetson": lambda: jetson(root),
        "cameras": lambda: cameras(root),
        "tensorrt_file": _tensorrt_file,
        "cuda_bindings": lambda: packages.installed(packages.CUDA_BINDINGS),
        "tensorrt_packages": lambda: packages.installed(packages.TENSORRT_PARTS),
        "ort_builds": lambda: packages.installed(packages.ORT_BUILDS),
        "opencv_builds": lambda: packages.installed(packages.OPENCV_BUILDS),
        "models": _models,
        "lacking": lambda: {extra: packages.lacking(extra) for extra in EXTRAS},
    }
    # The children have their own time limits, one for each library; so they are not limited here.
    answers: dict[str, libraries.Answer] = {}
    asking = [threading.Thread(target=lambda: answers.update(libraries.ask(["gpu", *_present()])))]
    if run:
        asking.append(threading.Thread(target=lambda: answers.update(libraries.ask(["derain"], 120))))
    for thread in asking:
        thread.daemon = True
        thread.start()
    values, facts.failed = isolated(probes, SECONDS)
    for name, value in values.items():
        setattr(facts, name, value)
    for thread in asking:
        thread.join()
    for answer in answers.values():
        if "error" in answer:
            answer["error"] = machine.without_home(answer["error"])
    gpu = answers.pop("gpu")
    facts.gpu = gpu.get("gpu")
    if "error" in gpu:
        facts.failed["gpu"] = f"the GPU's driver {gpu['error']}"
    facts.run = answers.pop("derain", None)
    facts.libraries = {name: _library(name, answers.get(name)) for name in ASKED}
    return facts


def judge(facts: Facts) -> Report:
    """Concludes from the facts what works."""
    able = abilities(facts)
    main_job = next(ability for ability in able if ability.name == "run_files")
    troubles = problems(facts)
    ran = facts.run
    if ran is None:
        works = main_job.can
        verdict = "sdps should derain pictures here (nothing was run)" if works else _no(main_job.why)
    elif "error" in ran:
        works, verdict = False, _no(str(ran["error"]))
    elif not ran["changed"] or ran["likeness"] < 0.5:
        # An engine that answers black, noise or the rain itself has run, but not worked.
        works = False
        verdict = _no(f"{ran['backend']} runs, but what it gives is no derained picture")
    else:
        works = True
        verdict = (
            f"sdps derains pictures here: {ran['model']} on {ran['backend']}, a picture of {ran['size']}"
            f" in {ran['seconds']} s, loading included"
        )
    return Report(works, verdict, facts, able, troubles)


def isolated(probes: dict[str, Callable[[], Any]], seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the probes that answered in time, and for each of the others what happened to it."""
    answers: queue.SimpleQueue[tuple[str, Any, str]] = queue.SimpleQueue()

    def work(name: str, probe: Callable[[], Any]) -> None:
        try:
            answers.put((name, probe(), ""))
        except Exception as error:
            answers.put((name, None, f"{type(error).__name__}: {error}"))

    # Daemons: a thread that hangs must not keep Python from ending.
    for name, probe in probes.items():
        threading.Thread(target=work, args=(name, probe), daemon=True).start()
    values: dict[str, Any] = {}
    failed = dict.fromkeys(probes, f"no answer in {seconds:.0f} s")
    end = time.monotonic() + seconds
    for _ in probes:
        try:
            name, value, error = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        del failed[name]
        if error:
            failed[name] = error
        else:
            values[name] = value
    return values, failed


def _tensorrt_file() -> str:
    file = packages.module_file("tensorrt")
    return machine.home_as_tilde(file) if file else ""


def _models() -> list[str]:
    runtime = packages.module_file("sdps.runtime")
    return sorted(path.name for path in (runtime.parent / "models").glob("*.onnx")) if runtime else []


def _no(why: str) -> str:
    return f"sdps cannot derain a picture here: {why}"


def _present() -> list[str]:
    """Libraries to import. PyTorch, which takes seconds, only where it might use a GPU."""
    names = [name for name in ASKED if name != "torch" and packages.module_there(name)]
    torch_cuda = "+cpu" not in packages.version_of("torch") and sys.platform != "darwin"
    if torch_cuda and packages.module_there("torch") and _has_gpu_files():
        names.append("torch")
    return names


def _has_gpu_files() -> bool:
    """Whether an NVIDIA driver is loaded: its control files, on PCs, Jetsons and in WSL."""
    return any(
        Path(path).exists() for path in ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvmap", "/dev/dxg")
    )


def _library(module: str, answer: libraries.Answer | None) -> Library:
    package = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "pygame": "pygame-ce",
        "tensorrt_rtx": "tensorrt-rtx-cu13",
    }
    version = packages.version_of(package.get(module, module))
    if answer is None:
        return Library("installed", version) if packages.module_there(module) else Library("missing")
    facts = {key: value for key, value in answer.items() if key not in ("name", "version", "error")}
    version = str(answer.get("version") or version).split("-")[0]
    if "error" in answer:
        return Library("broken", version, answer["error"])
    return Library("ok", version, "", facts)
