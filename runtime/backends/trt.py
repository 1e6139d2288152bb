"""Engine files of TensorRT and TensorRT-RTX, run directly: one class, as their runtimes are nearly one.

Untested on a GPU so far: everything up to the first call of the driver is tested, with TensorRT-RTX's
own runtime. TensorRT 10.3 (JetPack 6.1) and later, TensorRT-RTX 1.4 and later.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdps.core.artifact import write_bytes
from sdps.core.cache import cache_folder
from sdps.core.console import need
from sdps.core.errors import EngineError, MissingDependency, SdpsError
from sdps.core.frame import Image
from sdps.core.gpu import Gpu, first_gpu
from sdps.core.manifest import INPUT, OUTPUT, GraphManifest
from sdps.core.means import MEANS_INPUT, MEANS_OUTPUT, Means
from sdps.core.sidecar import EngineSidecar, read_engine, read_sidecar
from sdps.core.spec import ShapeRange, Size
from sdps.runtime.backends.means_rows import MeansRows
from sdps.runtime.cuda import open_cuda
from sdps.runtime.in_flight import InFlight

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
NAMES = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}
DEPTH = 2
"""One batch is computed while another is copied; a third would only wait longer."""


class TrtBackend:
    """Runs an engine that sdps-export built, if its sidecar says that it fits this machine.

    The engine's bytes are deserialised only after they matched the sidecar, since deserialising is
    running them. TensorRT's inferences are launched as CUDA graphs; TensorRT-RTX captures them itself.

    Args:
        path: The engine file; its sidecar is beside it.

    Raises:
        EngineError: no sidecar, or another file, version or GPU than it says; no GPU; not enough
            memory of it; or a CUDA call that fails.
        MissingDependency: the engine's runtime or a CUDA binding is not installed.
        ModelError: the graph in it is none of sdps's.
    """

    depth = DEPTH

    def __init__(self, path: Path) -> None:
        self.path = path
        gpu = first_gpu()
        trt, data, self.sidecar = read_for_here(path, gpu)
        if gpu is None:
            raise EngineError(
                f"{path} needs an NVIDIA GPU, and there is no driver or no GPU here.",
                "Run the .onnx graph that it was built from: it runs on a CPU.",
            )
        self.manifest = GraphManifest.from_metadata(self.sidecar.manifest, str(path))
        self.means = MeansRows(self.manifest.tile_means)
        self.limits: Sequence[ShapeRange] = profiles_of(self.sidecar)
        self.trt, self.rtx = trt, self.sidecar.flavour == RTX
        self.name, self.reason = f"{self.sidecar.flavour}:{gpu.name}", ""
        self.logger = make_logger(trt)
        self.shape: tuple[int, ...] = ()
        self.runtime_cache: RuntimeCache | None = None
        cuda = open_cuda()
        try:
            self.runtime, self.engine = deserialise(trt, data, self.sidecar, self.logger, path)
            check_tensors(trt, self.engine, path, self.manifest.tile_means)
            self.context = self._make_context(gpu)
            self.flight: InFlight | None = InFlight(cuda, self._enqueue, DEPTH, graphs=not self.rtx)
        except BaseException:
            self.context = self.engine = self.runtime = None
            cuda.close()
            raise

    def run(self, batch: Image) -> Image:
        return self.result(self.submit(batch))

    def submit(self, batch: Image) -> int:
        if batch.shape[0] != 1:
            raise EngineError(f"{self.path} takes one picture at a time, not {batch.shape[0]}.")
        assert self.flight, "closed"
        return self.flight.submit(self.means.pack(batch, None))

    def result(self, ticket: int) -> Image:
        assert self.flight, "closed"
        return self.means.unpack(self.flight.result(ticket))[0]

    def run_with(self, batch: Image, means: Means | None) -> tuple[Image, Means]:
        assert self.flight, "closed"
        return self.means.unpack(self.flight.result(self.flight.submit(self.means.pack(batch, means))))

    def one_at_a_time(self) -> bool:
        assert self.flight, "closed"
        changed, self.depth = self.depth > 1, 1
        self.flight.keep_one_slot()
        return changed

    def arithmetic(self) -> str:
        return ""  # its inspector speaks JSON of its own, which `export/inspection.py` reads

    def close(self) -> None:
        if self.flight is None:
            return
        flight, self.flight = self.flight, None
        flight.close()
        if self.runtime_cache:
            self.runtime_cache.save()
        # The context before its engine, the engine before its runtime.
        self.context = self.engine = self.runtime = None

    def _make_context(self, gpu: Gpu) -> Any:
        if self.rtx:
            config = self.engine.create_runtime_config()
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.runtime_cache = RuntimeCache(config, self.sidecar, gpu)
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"{self.path} does not start on {gpu.name}: {self.logger.said()}",
                "If memory is short: an engine for smaller pictures (--engine-sizes) needs less.",
            )
        return context

    def _enqueue(self, source: int, target: int, shape: tuple[int, ...], stream: int) -> None:
        """One inference onto a stream; the addresses are the caller's until its work there is done."""
        picture = self.means.picture(shape)
        if picture != self.shape:
            self._set_shape(picture, stream)
        addresses = {INPUT: source, OUTPUT: target}
        if self.means.count:
            offset = self.means.offset(picture)
            addresses |= {MEANS_INPUT: source + offset, MEANS_OUTPUT: target + offset}
        done = all(
            self.context.set_tensor_address(name, address) for name, address in addresses.items()
        ) and self.context.execute_async_v3(stream)
        if not done:
            raise EngineError(f"{self.path} failed on a picture: {self.logger.said()}")

    def _set_shape(self, shape: tuple[int, ...], stream: int) -> None:
        """Nothing is in flight now (`InFlight` sees to it), so profile and shape may change."""
        self.shape = ()
        size = Size(shape[1], shape[2])
        profile = self.sidecar.profile_for(size)
        if profile is None:
            raise EngineError(f"{self.path} does not take pictures of {size}.")
        done = profile == self.context.active_optimization_profile or (
            self.context.set_optimization_profile_async(profile, stream)
        )
        if not (done and self.context.set_input_shape(INPUT, shape)):
            raise EngineError(f"{self.path} does not take pictures of {size}: {self.logger.said()}")
        self.shape = shape


def read_for_here(path: Path, gpu: Gpu | None) -> tuple[Any, bytes, EngineSidecar]:
    """The runtime's module, the engine's checked bytes and its sidecar.

    Raises:
        EngineError, MissingDependency: as `TrtBackend`; with the command that builds the engine anew.
    """
    sidecar = read_sidecar(path)
    if sidecar.flavour not in NAMES:  # never import what a file names
        raise EngineError(f"{path} is said to be an engine of {sidecar.flavour!r}, which sdps does not know.")
    trt = load_runtime(sidecar.flavour)
    try:
        data, checked = read_engine(path, trt.__version__, gpu)
    except EngineError as error:
        raise EngineError(error.message, f"Build it again here: {build_command(sidecar)}") from None
    if checked != sidecar:
        raise EngineError(f"The sidecar of {path} changed while it was read.", "Try again.")
    if sidecar.stripped:
        raise EngineError(
            f"{path} has no weights in it.", f"Fill it: sdps-export CHECKPOINT --refit {path.name}"
        )
    return trt, data, sidecar


def build_command(sidecar: EngineSidecar) -> str:
    """The command that builds such an engine, but for the checkpoint's name, which it does not know."""
    size = sidecar.manifest.get("sdps.size", "dynamic")
    sizes = f"--size {size}"
    if size == "dynamic":
        sizes = f"--dynamic --engine-sizes {sidecar.min_size},{sidecar.opt_size},{sidecar.max_size}"
    engine = "rtx" if sidecar.flavour == RTX else "tensorrt"
    means = " --tile-means" if sidecar.manifest.get("sdps.tile_means", "0") != "0" else ""
    return f"sdps-export CHECKPOINT --precision {sidecar.precision} {sizes}{means} --engine {engine}"


def load_runtime(flavour: str) -> Any:
    """The module of TensorRT or TensorRT-RTX.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return need(flavour)
    except MissingDependency as error:
        if flavour == RTX:
            raise
        # Never from pip on a Jetson, where it would hide JetPack's own.
        raise MissingDependency(
            error.message,
            "TensorRT comes with JetPack or NVIDIA's packages: use a venv with --system-site-packages.",
        ) from None


def profiles_of(sidecar: EngineSidecar) -> list[ShapeRange]:
    """The engine's optimisation profiles as size ranges."""
    texts = sidecar.profiles or [[sidecar.min_size, sidecar.opt_size, sidecar.max_size]]
    return [ShapeRange(*(Size.parse(text) for text in profile)) for profile in texts]


def deserialise(trt: Any, data: bytes, sidecar: EngineSidecar, logger: Any, path: Path) -> tuple[Any, Any]:
    """The runtime and the engine; both must be kept, the runtime longer.

    Args:
        data: Bytes that `read_engine` has checked.

    Raises:
        EngineError: the runtime refuses them, or does not start.
    """
    name = NAMES[sidecar.flavour]
    runtime = trt.Runtime(logger)
    if runtime is None:
        raise EngineError(
            f"{name} does not start: {logger.said()}", "Are the GPU's driver and CUDA installed?"
        )
    if sidecar.options.get("version_compatible"):  # such plans bring their own runtime, as code
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineError(
            f"{name} cannot load {path}: {logger.said()}", f"Build it again here: {build_command(sidecar)}"
        )
    return runtime, engine


def check_tensors(trt: Any, engine: Any, path: Path, tile_means: int = 0) -> None:
    """That the engine is from one uint8 picture to one, and from means to means where there are any.

    Raises:
        EngineError: it is not.
    """
    is_input, is_output = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
    expected = {INPUT: (is_input, trt.DataType.UINT8, 4), OUTPUT: (is_output, trt.DataType.UINT8, 4)}
    if tile_means:
        expected[MEANS_INPUT] = (is_input, trt.DataType.FLOAT, 4)
        expected[MEANS_OUTPUT] = (is_output, trt.DataType.FLOAT, 4)
    found = {
        name: (
            engine.get_tensor_mode(name),
            engine.get_tensor_dtype(name),
            len(tuple(engine.get_tensor_shape(name))),
        )
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
    }
    means = f" with {tile_means} means" if tile_means else ""
    if found != expected or (tile_means and engine.get_tensor_shape(MEANS_INPUT)[1] != tile_means + 1):
        raise EngineError(f"{path} does not go from uint8 {INPUT!r} to uint8 {OUTPUT!r}{means}.")


class RuntimeCache:
    """What TensorRT-RTX compiled for this engine on this GPU, kept so that the next start is fast.

    A file under the cache folder that begins with the SHA-256 of the rest; TensorRT-RTX itself checks
    what it is of, but a damaged one is not given to it.
    """

    def __init__(self, config: Any, sidecar: EngineSidecar, gpu: Gpu) -> None:
        key = f"{sidecar.engine_sha256}{sidecar.flavour_version}{gpu.name}{gpu.cuda_driver}"
        name = hashlib.sha256(key.encode()).hexdigest()[:24] + ".cache"
        self.path = cache_folder() / "rtx-runtime" / name
        self.cache = config.create_runtime_cache()
        self.loaded = self._read()
        if self.loaded:
            self.cache.deserialize(self.loaded)
        config.set_runtime_cache(self.cache)

    def save(self) -> None:
        """Writes it if it has grown. A cache that cannot be written is not worth an error."""
        data = bytes(self.cache.serialize())
        if data != self.loaded:
            with contextlib.suppress(SdpsError):
                write_bytes(self.path, hashlib.sha256(data).digest() + data)

    def _read(self) -> bytes:
        try:
            whole = self.path.read_bytes()
        except OSError:
            return b""
        return whole[32:] if hashlib.sha256(whole[32:]).digest() == whole[:32] else b""


def make_logger(trt: Any) -> Any:
    """A logger that keeps the latest errors, for `said()` to tell in one line."""

    class Errors(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors = [*self.errors[-2:], " ".join(message.split())]

        def said(self) -> str:
            return "; ".join(self.errors) or "it does not say why."

    return Errors()
