"""The log and the health file take nothing's place, and lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sdps.core.errors import UsageError
from sdps.runtime.cli import app
from sdps.runtime.record import HEALTH, LOG, JsonLog, refuse_taken, report_path

from .conftest import MakeVideo


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["--provider", "identity", *arguments])


@pytest.mark.parametrize("option", [LOG, HEALTH])
def test_no_report_is_written_over_the_input(option: str, make_video: MakeVideo, tmp_path: Path) -> None:
    film = make_video()
    before = film.read_bytes()
    (tmp_path / "link.mp4").symlink_to(film)
    (tmp_path / "hard.mp4").hardlink_to(film)
    for name in ("in.mp4", "link.mp4", "hard.mp4", "../" + tmp_path.name + "/in.mp4"):
        done = run("--input", str(film), "--output", "none", option, str(tmp_path / name))
        assert done.exit_code == 2
        assert "is the input itself" in done.stderr
    assert film.read_bytes() == before


def test_no_report_is_written_over_a_picture_of_the_input(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (16, 16)).save(folder / name)
    done = run("--input", str(folder), "--output", str(tmp_path / "out"), HEALTH, str(folder / "2.png"))
    assert (done.exit_code, "is the input itself" in done.stderr) == (2, True)
    assert (folder / "2.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out").exists()


def test_no_report_is_written_over_another_file_of_the_run(tmp_path: Path) -> None:
    same, other = str(tmp_path / "a.json"), str(tmp_path / "out.mp4")
    for arguments, says in (
        (("--output", "none", LOG, same, HEALTH, same), f"{HEALTH} {same} is {LOG} itself"),
        (("--output", "none", "--output", other, LOG, other), f"{LOG} {other} is the output itself"),
        (("--output", other, HEALTH, other), f"{HEALTH} {other} is the output itself"),
    ):
        done = run("--input", "nowhere.mp4", *arguments)  # before the input is looked at
        assert done.exit_code == 2
        assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_report_is_not_written_over_standard_input(make_video: MakeVideo, tmp_path: Path) -> None:
    film = tmp_path / "film.y4m"
    command = [sys.executable, "-c", "from sdps.runtime.cli import main; main()", "--provider", "identity"]
    with film.open("wb") as out:
        subprocess.run([*command, "--input", str(make_video()), "--output", "-"], stdout=out, check=True)
    before = film.read_bytes()
    with film.open("rb") as given:
        arguments = ["--input", "-", "--output", "none", HEALTH, str(film)]
        done = subprocess.run(
            [*command, *arguments], stdin=given, capture_output=True, text=True, check=False
        )
    assert (done.returncode, film.read_bytes() == before) == (2, True), done.stderr


@pytest.mark.parametrize("name", ["", ".", "/", ".."])
@pytest.mark.parametrize("option", [LOG, HEALTH])
def test_a_report_without_a_name_is_wrong_usage(option: str, name: str) -> None:
    done = run("--input", "demo", "--output", "none", option, name)
    assert done.exit_code == 2
    assert (f"{option} {name!r} is no file" if name else f"{option} is empty") in done.stderr
    with pytest.raises(UsageError, match="no file"):
        report_path(option, name)


def test_a_health_file_takes_no_devices_place() -> None:
    with pytest.raises(UsageError, match="no file"):
        report_path(HEALTH, os.devnull)
    assert report_path(LOG, os.devnull) == Path(os.devnull)
    refuse_taken({LOG: None, HEALTH: None}, [("the input", Path(os.devnull))])


def test_a_line_about_a_path_that_is_no_utf_8_is_not_lost(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "run.jsonl")
    log.write("start", os.fsdecode(b"to caf\xe9.mp4"))
    log.close()
    assert json.loads((tmp_path / "run.jsonl").read_text())["text"] == "to caf\udce9.mp4"
