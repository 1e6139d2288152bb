"""Sidecars: which GPU, version and size an engine is good for."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sdps.core.errors import EngineError
from sdps.core.gpu import Gpu
from sdps.core.sidecar import EngineSidecar, check_sidecar, read_sidecar, sidecar_path, write_sidecar
from sdps.core.spec import Size

ORIN, A2, L4 = Gpu("Orin", "8.7", "12.6"), Gpu("NVIDIA A2", "8.6", "12.6"), Gpu("NVIDIA L4", "8.9", "12.6")
TITAN = Gpu("TITAN RTX", "7.5", "12.6")
RTX3090 = Gpu("NVIDIA GeForce RTX 3090", "8.6", "12.6")
PLAN = b"a plan"


def sidecar(flavour: str = "tensorrt", **options: Any) -> EngineSidecar:
    """An engine's that was built on an A2."""
    return EngineSidecar(
        graph_sha256="0" * 64,
        manifest={},
        flavour=flavour,
        flavour_version="10.3.0",
        sdps_version="0",
        gpu=A2.name,
        compute_capability=A2.compute_capability,
        cuda_driver=A2.cuda_driver,
        precision="fp16",
        min_size="64x64",
        opt_size="480x640",
        max_size="1080x1920",
        engine_sha256=sha256(PLAN).hexdigest(),
        engine_bytes=len(PLAN),
        seconds=1.0,
        warnings=[],
        options=options,
    )


@pytest.mark.parametrize(
    ("made", "fits", "misfits"),
    [
        (sidecar(), [A2], [RTX3090, L4, ORIN, TITAN]),
        (sidecar(hardware_compatible="same-cc"), [A2, RTX3090], [L4, ORIN]),
        (sidecar(hardware_compatible="ampere+"), [A2, RTX3090, L4, ORIN], [TITAN]),
        (sidecar("tensorrt_rtx", targets=["8.6", "8.9"]), [A2, RTX3090, L4], [ORIN, TITAN]),
        (sidecar("tensorrt_rtx"), [A2, RTX3090, L4], []),
    ],
)
def test_gpus(made: EngineSidecar, fits: list[Gpu], misfits: list[Gpu]) -> None:
    assert [gpu.name for gpu in (*fits, *misfits) if not made.misfit(gpu)] == [gpu.name for gpu in fits]
    assert made.misfit(None) == ""


def test_another_gpu_and_another_version_are_refused(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(PLAN)
    write_sidecar(engine, sidecar())
    assert check_sidecar(engine, "10.3.0", A2) == sidecar()
    with pytest.raises(EngineError, match=r"built on NVIDIA A2 \(8\.6\), and this is Orin"):
        check_sidecar(engine, "10.3.0", ORIN)
    with pytest.raises(EngineError, match=r"and 10\.4\.0 is installed"):
        check_sidecar(engine, "10.4.0", A2)
    write_sidecar(engine, sidecar(version_compatible=True))
    assert check_sidecar(engine, "10.4.0", A2)
    with pytest.raises(EngineError, match=r"and 11\.0\.0 is installed"):
        check_sidecar(engine, "11.0.0", A2)


def test_links_are_refused(tmp_path: Path) -> None:
    real, engine = tmp_path / "real.engine", tmp_path / "x.engine"
    for path in (real, engine):
        path.write_bytes(PLAN)
        write_sidecar(path, sidecar())
    engine.unlink()
    engine.symlink_to(real)
    with pytest.raises(EngineError, match="symbolic link"):
        check_sidecar(engine)
    engine.unlink()
    engine.write_bytes(PLAN)
    sidecar_path(engine).unlink()
    sidecar_path(engine).symlink_to(sidecar_path(real))
    with pytest.raises(EngineError, match="symbolic link"):
        check_sidecar(engine)


def test_one_written_before_there_were_profiles_is_read(tmp_path: Path) -> None:
    engine = tmp_path / "x.engine"
    later = ("options", "profiles", "structure_sha256", "stripped", "network")
    old = {key: value for key, value in asdict(sidecar()).items() if key not in later}
    sidecar_path(engine).write_text(json.dumps({"format": "1", **old}))
    made = read_sidecar(engine)
    assert (made.options, made.profiles) == ({}, [])
    assert made.profile_for(Size(480, 640)) == 0
    assert made.profile_for(Size(32, 640)) is None


def test_the_first_profile_that_fits_is_taken() -> None:
    made = replace(sidecar(), profiles=[["480x640"] * 3, ["64x64", "720x1280", "1080x1920"]])
    asked = (Size(480, 640), Size(64, 64), Size(1080, 1920), Size(1080, 1924))
    assert [made.profile_for(size) for size in asked] == [0, 1, 1, None]
