"""`sdps-eval`: PSNR and SSIM of a model, by the paper's protocol and by the usual one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.command import Command, new_app
from sdps.core.console import failing_clearly, version_printer
from sdps.core.errors import MissingDependency, SdpsError, UsageError

if TYPE_CHECKING:
    from sdps.core.frame import Image
    from sdps.training.eval_sets import PictureSet
    from sdps.training.protocol import Mean, PictureScore
    from sdps.training.restorers import Restorer
    from sdps.training.worst_sheet import WorstSheet


@dataclass
class Tally:
    """How far the scoring has come.

    Attributes:
        total: Pictures of all sets.
        scores: By set, of whole pictures only: each has all its protocols.
        done: Pictures scored.
        at: The picture in work, in words; empty while the next one is read.
        step: What is done with it, in the words of `score_picture`; empty while it is read.
    """

    total: int
    scores: dict[str, list[PictureScore]] = field(default_factory=dict)
    done: int = 0
    at: str = ""
    step: str = ""

    def part(self) -> str:
        return f"{self.done} of {self.total} pictures"

    def begin(self, step: str) -> None:
        self.step = step


FILES = ("scores.csv", "scores.json", "worst.png")

app = new_app()


@app.command(cls=Command)
@failing_clearly
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Checkpoint, ONNX graph, engine, or a name: sdps-nano, rain100h, ..."
        ),
    ] = "sdps-nano",
    rainy: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT|DATA]",
            help="Rainy pictures; or alone a data set of a known layout (Rain100L/H, RealRain-1k, Rain13K).",
        ),
    ] = None,
    clean: Annotated[
        Path | None, typer.Argument(metavar="[TARGET]", help="The same pictures without rain.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="paper|frame|both",
            help="Tiles of 128 as behind the paper's numbers, or whole pictures, whatever memory they take. "
            "(default: paper; frame on the held-out photographs)",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write scores.csv (each picture), scores.json and worst.png there."),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="Pictures on the worst-cases sheet.")] = 6,
    limit: Annotated[int, typer.Option(min=0, help="Only the first pictures of each set; 0: all.")] = 0,
    provider: Annotated[
        str, typer.Option(metavar="NAME", help="What runs a graph: auto, openvino, cpu, cuda, tensorrt.")
    ] = "auto",
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda",
            help="Where the model runs: PyTorch for a checkpoint; for a graph it narrows --provider.",
        ),
    ] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="PyTorch's CPU threads; 0: its own choice.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the means as JSON and not as a table.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_printer("sdps-eval"), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Measure how well a model removes rain, against ground truth.

    Without pictures: on the held-out photographs with synthetic rain, fetched if need be.
    """
    protocol = protocol or ("frame" if rainy is None else "paper")
    if protocol not in ("paper", "frame", "both"):
        raise UsageError(f"There is no protocol {protocol!r}.", "Choose from paper, frame, both.")
    protocols = ("paper", "frame") if protocol == "both" else (protocol,)
    if out:
        _probe(out)
    from sdps.core.console import need

    torch = need("torch", "train")
    if threads:
        torch.set_num_threads(threads)
    from sdps.training.eval_sets import folders, held_out_sets
    from sdps.training.restorers import open_restorer

    sets = held_out_sets(limit) if rainy is None else folders(rainy, clean, limit)
    with closing(open_restorer(model, provider, device)) as restorer:
        stopped = _score(restorer, sets, protocols, out, worst, as_json)
        if stopped is None and (told := restorer.arithmetic()):
            typer.echo(f"{restorer.name}: {told}", err=True)
    if unread := [line for one in sets for line in one.unread]:
        from sdps.training.report import printable

        for line in unread:
            typer.echo(printable(f"not scored: {line}"), err=True)
    if stopped is not None:
        raise stopped
    if unread:
        total = sum(one.count for one in sets)
        raise SdpsError(
            f"{len(unread)} of {total} pictures could not be read and are in no mean.", "Mend or remove them."
        )


def _probe(out: Path) -> None:
    """Makes the folder and tries to write there, so that nobody scores for hours in vain.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(
            f"Nothing can be written to {out}: {error.strerror}.", "Choose another --out."
        ) from None
    for name in FILES:
        if (out / name).is_dir():
            raise UsageError(f"{out / name} is a folder, and no file.", "Choose another --out.")


def _score(
    restorer: Restorer,
    sets: list[PictureSet],
    protocols: tuple[str, ...],
    out: Path | None,
    worst: int,
    as_json: bool,
) -> SdpsError | KeyboardInterrupt | None:
    """Scores the sets, prints and writes the scores; returns what ended it early, for the caller to raise.

    What was scored until then is printed and written, marked as partial; of nothing there is no report.
    """
    from sdps.training.worst_sheet import WorstSheet

    tally, sheet = Tally(sum(one.count for one in sets)), WorstSheet(worst, len(sets))
    stopped: SdpsError | KeyboardInterrupt | None = None
    try:
        _go_through(restorer, sets, protocols, tally, sheet)
    # Neither error is kept: its frames hold what filled the memory, of which the report needs some.
    except KeyboardInterrupt:
        stopped = KeyboardInterrupt()
    except Exception as error:  # of PyTorch, ONNX Runtime, OpenVINO, CUDA, NumPy: they share no class
        stopped = _explained(error, tally, restorer)
        with suppress(Exception):  # nor what the engine holds; one that failed may fail again
            restorer.close()
    if tally.done:
        unread = [line for one in sets for line in one.unread]
        part = "" if stopped is None else tally.part()
        try:
            _report(restorer.name, tally, unread, part, sheet, out, as_json)
        except MemoryError:  # of the sheet, the largest and the last
            stopped = stopped or SdpsError("Memory ran out while the files were written.", "Free some.")
    if isinstance(stopped, KeyboardInterrupt):
        typer.echo(f"stopped early: {tally.part()} were scored", err=True)
    return stopped


def _go_through(
    restorer: Restorer,
    sets: list[PictureSet],
    protocols: tuple[str, ...],
    tally: Tally,
    sheet: WorstSheet,
) -> None:
    """Scores every picture of the sets into `tally`, and keeps the worst in `sheet`."""
    from sdps.training.protocol import score_picture

    # Elsewhere what is free is not told, and nothing is ended without a word.
    warn = "frame" in protocols and sys.platform == "linux"
    with _progress(tally.total) as advance:
        for one in sets:
            scores = tally.scores[one.name] = []
            for name, rainy, clean in one.pictures:
                tally.at = f"{name} of {one.name}"
                warn = warn and not _warned(restorer, tally.at, rainy)
                keep = partial(sheet.add, one.name)
                scores += score_picture(name, rainy, clean, restorer, protocols, keep, tally.begin)
                tally.at, tally.step, tally.done = "", "", tally.done + 1
                advance()


def _warned(restorer: Restorer, at: str, image: Image) -> bool:
    """Says so if a picture may need more memory than is free; Linux may then end the process unasked."""
    from sdps.core.free_memory import free_memory

    need, free = restorer.memory(image), free_memory()
    if need > free:
        typer.echo(
            f"{at} ({image.shape[1]}x{image.shape[0]}) may take {need / 1e9:.1f} GB of memory at once, and "
            f"{free / 1e9:.1f} are free: should this end without a word, use --protocol paper.",
            err=True,
        )
    return need > free


def _explained(error: Exception, tally: Tally, restorer: Restorer) -> SdpsError:
    """The one line about what ended the scoring: at which picture and step, what is kept, how to mend it."""
    from sdps.runtime.memory import is_out_of_memory
    from sdps.training.protocol import PROTOCOLS

    if isinstance(error, UsageError | MissingDependency) or (isinstance(error, SdpsError) and not tally.at):
        return error  # of the command or of all pictures, not of this one
    at, text = tally.at or "the next picture", " ".join(str(error).split())
    kept = f"The scores are of {tally.part()}." if tally.done else "Nothing was scored."
    if isinstance(error, SdpsError):
        return SdpsError(f"{at}: {error.message} {kept}", error.remedy)
    restoring = tally.step in PROTOCOLS
    doing = "restored" if restoring else "scored" if tally.step else "read"
    # "Not enough memory" is PyTorch's on Windows.
    if is_out_of_memory(error) or "not enough memory" in text:
        ways = ["Free some", "shrink that picture", "leave it out"]
        if tally.step == "frame":
            ways.append("use --protocol paper, which takes it in tiles of 128")
        if restoring and "cuda" in restorer.name.lower():
            ways.append("use --device cpu")
        remedy = f"{_listed(ways, 'or')}."
        return SdpsError(f"Memory ran out while {at} was {doing}. {kept}", remedy)
    if not restoring:
        return SdpsError(
            f"{at} could not be {doing} ({type(error).__name__}: {text}). {kept}", "Leave that picture out."
        )
    return SdpsError(
        f"{restorer.name} failed at {at} ({type(error).__name__}: {text}). {kept}",
        "Leave that picture out, or try another --provider or --device.",
    )


def _report(
    model: str,
    tally: Tally,
    unread: list[str],
    part: str,
    sheet: WorstSheet,
    out: Path | None,
    as_json: bool,
) -> None:
    """Prints the means and writes the files, and names those; `part` says what the means are of, if not of
    all pictures."""
    from sdps.training import report
    from sdps.training.protocol import means

    found = {name: means(scores) for name, scores in tally.scores.items()}
    # First what needs no disk, as a full one should not cost the table; nor who does not listen the files.
    try:
        if as_json:
            typer.echo(report.to_json(model, found, unread, part))
        else:
            report.show(model, found, part)
    finally:
        if out:
            _write(model, tally, found, unread, part, sheet, out)


def _write(
    model: str,
    tally: Tally,
    found: Mapping[str, list[Mean]],
    unread: list[str],
    part: str,
    sheet: WorstSheet,
    out: Path,
) -> None:
    """The files of `_report`."""
    from sdps.training import report

    csv_path, json_path, sheet_path = (out / name for name in FILES)
    written: list[str] = []
    try:
        report.write_csv(csv_path, tally.scores)
        written.append(str(csv_path))
        report.write_means(json_path, model, found, unread, part)
        written.append(json_path.name)
        sheet.write(sheet_path)
        written.append(sheet_path.name)
    finally:
        if written:
            typer.echo(report.printable(f"wrote {_listed(written, 'and')}"), err=True)


def _listed(words: list[str], last: str) -> str:
    """'a, b and c'"""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; yields what moves it on by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda: bar.advance(task)


def main() -> None:
    """Console entry."""
    app()


if __name__ == "__main__":
    main()
