"""What a report says, as rows of text and as sentences; `report.py` gives them a form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdps.benchmarks.measurement import REFERENCE, Drift, Measurement, Report, StageCost, Truth
from sdps.benchmarks.timing import MIN_ROUNDS

SAME_DB, NEAR_DB = 50.0, 40.0
"""PSNR against PyTorch FP32 from which on a picture is called the same (a root mean square of 0.8 of
a level), and nearly the same (2.6 levels)."""
VAGUE = 1.25
"""From this width on, the interval of a ratio is printed in its place."""
TOTAL, DIFFERENT = "total", "a DIFFERENT picture"
RATIOS_ONLY = (
    "On a shared or busy machine milliseconds differ from run to run; the contenders took turns, "
    "so compare ratios, not milliseconds, and milliseconds only within this run."
)


@dataclass(frozen=True)
class Grid:
    """One table: a heading, column names (the first is flush left), rows of text, a footnote."""

    heading: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    footnote: str


def grids(report: Report) -> Iterator[Grid]:
    """The report's tables in order of reading."""
    yield _stages(report)
    yield _latency(report)
    if any(m.drift for m in report.measurements):
        yield _drift(report)
    if report.input_truth:
        yield _truth(report)


def verdicts(report: Report) -> list[tuple[str, str]]:
    """Each contender, and one sentence about it in plain words."""
    return [(m.contender, f"{_speed(report, m)}, {_fidelity(m.drift)}") for m in report.measurements[1:]]


def notes(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    lines = [RATIOS_ONLY]
    if report.environment.busy:
        load, cores = report.environment.load, report.environment.cores
        lines.append(
            f"Other work ran at the start (load {load:g} on {cores} cores). PyTorch's threads wait for one "
            "another and suffer most from that, which flatters the graphs: measure on a quiet machine, or "
            "with --threads 1."
        )
    if shaky := [m.contender for m in report.measurements if not m.stable]:
        lines.append(f"Unstable (interquartile range over 10 % of the median): {', '.join(shaky)}.")
    return [*lines, *report.notes]


def network(report: Report) -> str:
    """One line: its hyperparameters."""
    return ", ".join(f"{key} {value}" for key, value in report.config.items())


def place(report: Report) -> tuple[str, str]:
    """Two lines: the machine, the software."""
    e = report.environment
    power = f"power mode {e.power}" if e.power else ""
    machine = (
        f"{e.cpu}, {_count(e.cores, 'core')}, {e.memory_gb:g} GB",
        e.gpu,
        power,
        e.system,
        f"fingerprint {e.fingerprint}",
    )
    software = (f"Python {e.python}", *(f"{name} {v}" for name, v in e.libraries.items()))
    return " · ".join(part for part in machine if part), f"{', '.join(software)} · {e.time}"


def _stages(report: Report) -> Grid:
    total = StageCost(TOTAL, sum(s.parameters for s in report.stages), sum(s.macs for s in report.stages))
    said = sorted({m.macs for m in report.measurements if m.macs})
    graphs = f" The graphs' own count, at 256x256: {', '.join(_macs(n, n) for n in said)}." if said else ""
    return Grid(
        f"Cost at {report.size}",
        ("stage", "parameters", "MACs"),
        [(s.name, f"{s.parameters:,}", _macs(s.macs, total.macs)) for s in (*report.stages, total)],
        f"Convolutions, transposed convolutions and linear layers; 1 MAC = 2 FLOPs.{graphs}",
    )


def _latency(report: Report) -> Grid:
    rows = []
    for m in report.measurements:
        latency, ratio = m.latency, report.ratio(m)
        times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms)
        speed = "1" if m is report.reference else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
        alone, ahead = m.per_second
        rates = f"{alone:.3g}", f"{ahead:.3g} ({m.depth})" if ahead else "-"
        name = f"{m.contender} on {_device(m)}" if m is report.reference else m.contender
        rows.append((name, *(_ms(t) for t in times), speed, *rates))
    timing = report.timing
    enough = timing.rounds >= MIN_ROUNDS
    interval = "its 95 % interval" if enough else f"its range (an interval needs {MIN_ROUNDS} rounds)"
    asked = "" if timing.rounds >= 100 else f" p99 needs 100 rounds, p90 needs 10; these are {timing.rounds}."
    return Grid(
        f"Latency at {report.size}, milliseconds",
        ("contender", "p50", "p90", "p99", "max", "x PyTorch", "images/s", "of a file"),
        rows,
        f"{_count(timing.rounds, 'round')} in turns, {_count(timing.threads, 'thread')} each. x PyTorch: "
        f"median over rounds of PyTorch's time / the contender's, with {interval}. Of a file: images/s "
        f"with so many (in brackets) in flight, where the engine has more than one.{asked}",
    )


def _drift(report: Report) -> Grid:
    rows = []
    for m in report.measurements:
        if drift := m.drift:
            # Adding 0.0 makes zero of a negative zero.
            shift = " ".join(f"{round(v, 2) + 0.0:+.2f}" for v in drift.shift_levels)
            row = (m.contender, _db(drift.psnr_db), f"{drift.ssim:.5f}", str(drift.max_levels), shift)
            rows.append((*row, f"{_db(drift.worst.psnr_db)} {_short(drift.worst.picture)}"))
    count = len(next(m.drift for m in report.measurements if m.drift).pictures)
    columns = ("contender", "PSNR dB", "SSIM", "max", "shift R G B", "worst picture")
    return Grid(
        f"Drift from {REFERENCE}, {_count(count, 'picture')}",
        columns if count > 1 else columns[:-1],
        rows if count > 1 else [row[:-1] for row in rows],
        "On RGB. max: largest difference; shift: mean signed difference; both in 8-bit levels.",
    )


def _truth(report: Report) -> Grid:
    scores: list[tuple[str, Truth | None]] = [("rainy input", report.input_truth)]
    scores += [(m.contender, m.truth) for m in report.measurements]
    rows = [(name, _db(score.psnr_db), f"{score.ssim:.4f}") for name, score in scores if score]
    footnote = "Means, on RGB, SSIM with a 7x7 window. Papers often print luma (Y), which reads higher."
    some = [f"{s.equal} of {name}" for name, s in scores if s and s.equal and math.isfinite(s.psnr_db)]
    equal = f" The mean PSNR is without equal pictures (infinite): {', '.join(some)}." if some else ""
    return Grid("Against ground truth", ("picture", "PSNR dB", "SSIM"), rows, footnote + equal)


def _speed(report: Report, measurement: Measurement) -> str:
    ratio, reference = report.ratio(measurement), report.reference
    where = "" if measurement.on_cpu == reference.on_cpu else f" on the {_device(reference)}"
    if report.timing.rounds < MIN_ROUNDS:
        rounds = _count(report.timing.rounds, "round")
        return f"speed not resolved in {rounds} ({_times(ratio.median)} PyTorch's)"
    if not ratio.resolved:
        return f"about as fast as PyTorch{where} ({_times(ratio.low)} to {_times(ratio.high)})"
    if ratio.high > VAGUE * ratio.low:
        return f"{_times(ratio.low)} to {_times(ratio.high)} PyTorch's speed{where}"
    return f"{_times(ratio.median)} PyTorch's speed{where}"


def _device(reference: Measurement) -> str:
    return "CPU" if reference.on_cpu else "GPU"


def _fidelity(drift: Drift | None) -> str:
    if drift is None:
        return "picture not compared"
    if drift.max_levels == 0:
        return "restores the same picture to the last bit"
    how = f"(PSNR {drift.psnr_db:.0f} dB, within {_count(drift.max_levels, 'level')})"
    if drift.psnr_db >= SAME_DB:
        return f"restores the same picture {how}"
    if drift.psnr_db >= NEAR_DB:
        return f"restores nearly the same picture {how}"
    return f"restores {DIFFERENT} {how}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"


def _macs(macs: int, scale: int) -> str:
    """In G or M, as `scale` calls for."""
    return f"{macs / 1e9:,.2f} G" if scale >= 1e9 else f"{macs / 1e6:,.2f} M"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.2f}x" if ratio < 1 else f"{ratio:.1f}x"


def _db(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f}"
