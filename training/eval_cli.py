"""`sdps-eval`: PSNR and SSIM of a model, by the paper's protocol and by the usual one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdps.core.console import failing_clearly, version_printer
from sdps.core.errors import SdpsError, SourceError, UsageError

if TYPE_CHECKING:
    from sdps.core.frame import Image
    from sdps.training.datasets import Pair
    from sdps.training.protocol import Mean, PictureScore
    from sdps.training.restorers import Restorer


@dataclass(frozen=True)
class PictureSet:
    """Pictures that are scored together: name, rainy and clean, read one after the other.

    Attributes:
        unread: A line for each pair that could not be read; it grows while `pictures` is gone through.
    """

    name: str
    count: int
    pictures: Iterable[tuple[str, Image, Image]]
    unread: list[str] = field(default_factory=list)


FILES = ("scores.csv", "scores.json", "worst.png")

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
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
            help="Tiles of 128 as behind the paper's numbers, or whole pictures as sdps-run restores them. "
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
        str, typer.Option(metavar="auto|cpu|cuda", help="What runs a checkpoint in PyTorch.")
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
    from sdps.training.restorers import open_restorer

    sets = _held_out(limit) if rainy is None else _folders(rainy, clean, limit)
    with closing(open_restorer(model, provider, device)) as restorer:
        _score(restorer, sets, protocols, out, worst, as_json)
        if told := restorer.arithmetic():
            typer.echo(f"{restorer.name}: {told}", err=True)
    if unread := [line for one in sets for line in one.unread]:
        from sdps.training.report import printable

        for line in unread:
            typer.echo(printable(f"not scored: {line}"), err=True)
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


def _folders(rainy: Path, clean: Path | None, limit: int) -> list[PictureSet]:
    """The pairs to score, by set; a picture that does not fit is refused by name."""
    from sdps.core.metrics import SMALLEST
    from sdps.training.datasets import check_pairs, pair_up, recognise, refuse

    if clean is not None:
        pairs, problems = pair_up(rainy, clean)
        sets = {_name(rainy): pairs}
    else:
        data = recognise(rainy)
        sets, problems = data.part("test", "all", "val"), data.problems
        if not sets:
            raise UsageError(
                f"{rainy} holds training pictures only.", "Give two folders, rainy and clean, to score them."
            )
        sets = {_name(rainy) if name == "all" else name: pairs for name, pairs in sets.items()}
    refuse(problems)
    if not any(sets.values()):
        raise UsageError(f"{rainy} and {clean} have no picture in common.", "Pairs have the same name.")
    if limit:
        sets = {name: pairs[:limit] for name, pairs in sets.items()}
    refuse([line for pairs in sets.values() for line in check_pairs(pairs, SMALLEST)[1]])
    return [_pairs(name, pairs) for name, pairs in sets.items()]


def _pairs(name: str, pairs: list[Pair]) -> PictureSet:
    """A set of pairs on disk; one that cannot be read is written down and left out."""
    from sdps.training.datasets import read_pair

    unread: list[str] = []

    def pictures() -> Iterator[tuple[str, Image, Image]]:
        for pair in pairs:
            try:
                both = read_pair(pair)
            except SourceError as error:
                unread.append(error.message)
                continue
            yield (pair.name, *both)

    return PictureSet(name, len(pairs), pictures(), unread)


def _name(folder: Path) -> str:
    """A folder's own name, also of `.` and `..`; links keep theirs."""
    return (folder if folder.name not in ("", "..") else folder.resolve()).name or str(folder)


def _held_out(limit: int) -> list[PictureSet]:
    from sdps.training.evaluate import held_out, looks_here
    from sdps.training.photos import photo_list

    count = min(limit or 10**9, len(photo_list("evaluate")))
    return [PictureSet(look, count, held_out(look, limit)) for look in looks_here()]


def _score(
    restorer: Restorer,
    sets: list[PictureSet],
    protocols: tuple[str, ...],
    out: Path | None,
    worst: int,
    as_json: bool,
) -> None:
    from sdps.training import report
    from sdps.training.protocol import means, score_pictures
    from sdps.training.worst_sheet import WorstSheet

    found: dict[str, list[Mean]] = {}
    scores: dict[str, list[PictureScore]] = {}
    sheet = WorstSheet(worst, len(sets))
    with _progress(sum(one.count for one in sets)) as advance:
        for one in sets:

            def pictures(one: PictureSet = one) -> Iterator[tuple[str, Image, Image]]:
                for picture in one.pictures:
                    yield picture
                    advance()

            scores[one.name] = score_pictures(pictures(), restorer, protocols, partial(sheet.add, one.name))
            found[one.name] = means(scores[one.name])
    unread = [line for one in sets for line in one.unread]
    # First what needs no disk: a full one should not cost the table.
    if as_json:
        typer.echo(report.to_json(restorer.name, found, unread))
    else:
        report.show(restorer.name, found)
    if out:
        csv_path, json_path, sheet_path = (out / name for name in FILES)
        report.write_csv(csv_path, scores)
        report.write_means(json_path, restorer.name, found, unread)
        sheet.write(sheet_path)
        typer.echo(report.printable(f"wrote {csv_path}, scores.json and worst.png"), err=True)


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
