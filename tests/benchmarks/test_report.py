"""What the tables, sentences and files say."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sdps.benchmarks.measurement import Report, Truth
from sdps.benchmarks.report import claim, markdown, show, write
from sdps.benchmarks.tables import grids, notes, verdicts
from sdps.benchmarks.timing import Timing
from sdps.core.errors import SdpsError


def read_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Markdown's tables by heading, each row a dict by column."""
    tables: dict[str, list[dict[str, str]]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        if cells:
            assert len({len(row) for row in cells}) == 1, heading
            tables[heading] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return tables


def printed(report: Report, width: int = 100) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_markdown_reads_back(report: Report) -> None:
    tables = read_tables(markdown(report))
    assert list(tables) == [
        "Cost at 256x256",
        "Latency at 256x256, milliseconds",
        "Drift from PyTorch FP32, 2 pictures",
        "Against ground truth",
    ]
    assert tables["Cost at 256x256"][-1] == {"stage": "total", "parameters": "1,234", "MACs": "5.50 G"}
    latency = tables["Latency at 256x256, milliseconds"]
    assert [row["p50"] for row in latency] == ["103.0", "51.5", "103.0"]
    assert latency[1]["x PyTorch"] == "2.00 (2.00-2.00)"
    assert [(row["images/s"], row["of a file"]) for row in latency] == [
        ("9.71", "-"),
        ("19.4", "24.3 (2)"),
        ("9.71", "-"),
    ]
    truth = {row["picture"]: row["PSNR dB"] for row in tables["Against ground truth"]}
    assert truth == {
        "rainy input": "equal",
        "PyTorch FP32": "30.00",
        "net-fp32 on openvino": "30.00",
        "net-int8 on cpu": "25.00",
    }


def test_verdicts_are_plain_words(report: Report) -> None:
    equal, different = verdicts(report)
    assert equal == (
        "net-fp32 on openvino",
        "2.0x PyTorch's speed, restores the same picture to the last bit",
    )
    assert different[1].startswith("about as fast as PyTorch (")
    assert different[1].endswith("restores a DIFFERENT picture (PSNR 34 dB, within 60 levels)")


def test_a_vague_ratio_is_said_as_a_range(report: Report) -> None:
    reference, fast, _ = report.measurements
    shaky = replace(fast, samples_ns=tuple(t // (2 + i % 5) for i, t in enumerate(reference.samples_ns[:9])))
    short = replace(reference, samples_ns=reference.samples_ns[:9])
    ((_, sentence),) = verdicts(replace(report, measurements=(short, shaky)))
    assert re.match(r"\d\.\dx to \d\.\dx PyTorch's speed, ", sentence)


def test_no_interval_is_claimed_from_five_rounds(report: Report) -> None:
    """Their range contains the median in 93.75 %, that of one sample never."""
    few = tuple(replace(m, samples_ns=m.samples_ns[:5]) for m in report.measurements)
    report = replace(report, measurements=few, timing=Timing(5, 2, 0, 2))
    assert "with its range (an interval needs 6 rounds)" in markdown(report)
    assert "95 %" not in markdown(report)
    assert all("speed not resolved in 5 rounds" in sentence for _, sentence in verdicts(report))


def test_p99_is_not_claimed_from_few_rounds(report: Report) -> None:
    few = tuple(replace(m, samples_ns=m.samples_ns[:30]) for m in report.measurements)
    report = replace(report, measurements=few, timing=Timing(30, 2, 0, 2))
    table = read_tables(markdown(report))["Latency at 256x256, milliseconds"]
    assert {row["p99"] for row in table} == {"-"}
    assert "p99 needs 100 rounds" in markdown(report)


def test_the_doubts_are_always_there(report: Report) -> None:
    busy = replace(report, environment=replace(report.environment, load=64.0, cores=2))
    text = "\n".join(notes(busy))
    assert "compare ratios, not milliseconds" in text
    assert "load 64 on 2 cores" in text
    assert "other weights" in text
    assert "Unstable" not in text
    jumpy = replace(report.measurements[0], samples_ns=(1, 100, 10_000))
    assert "Unstable" in "\n".join(notes(replace(busy, measurements=(jumpy,))))


def test_pictures_that_are_out_of_a_mean_are_counted(report: Report) -> None:
    reference, *others = report.measurements
    some = replace(reference, truth=Truth(30.0, 0.9, 2))
    text = markdown(replace(report, measurements=(some, *others), input_truth=Truth(math.inf, 1.0, 5)))
    assert (
        "The mean PSNR is without equal pictures (infinite): 2 of PyTorch FP32, 1 of net-int8 on cpu." in text
    )


def test_a_ratio_between_devices_says_so(report: Report) -> None:
    assert read_tables(markdown(report))["Latency at 256x256, milliseconds"][0]["contender"].endswith(
        " on CPU"
    )
    reference, fast, slow = report.measurements
    mixed = replace(report, measurements=(reference, replace(fast, provider="onnxruntime:CUDA"), slow))
    (_, over), (_, same) = verdicts(mixed)
    assert over.startswith("2.0x PyTorch's speed on the CPU, ")
    assert same.startswith("about as fast as PyTorch (")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_console_shows_the_same_and_keeps_to_its_width(report: Report, width: int) -> None:
    text = printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    for grid in grids(report):
        assert grid.heading in text
        for row in grid.rows:
            assert any(all(cell in line for cell in row[1:]) for line in text.splitlines()), row
    assert "DIFFERENT" in text


def test_negative_zero_is_zero(report: Report) -> None:
    assert "-0.00" not in markdown(report)


def test_both_files_are_written_whole(report: Report, tmp_path: Path) -> None:
    claim(tmp_path / "new" / "folder")
    paths = write(report, tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "report.json",
        "report.md",
    ]
    assert paths[1].read_text() == markdown(report)


def test_a_folder_that_cannot_be_made_is_found_out_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SdpsError, match="folder"):
        claim(tmp_path / "file" / "out")
