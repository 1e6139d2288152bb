"""`sdps-eval`: PSNR and SSIM of a model, by the paper's protocol and by the usual one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdps.core.console import failing_clearly, version_printer
from sdps.core.errors import UsageError

if TYPE_CHECKING:
    from sdps.core.frame import Image
    from sdps.training.datasets import Pair
    from sdps.training.protocol import Mean, PictureScore
    from sdps.training.restorers import Restorer

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
        str,
        typer.Option(
            metavar="paper|frame|both",
            help="Tiles of 128 as behind the paper's numbers, or whole pictures as sdps-run restores them.",
        ),
    ] = "paper",
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
    if protocol not in ("paper", "frame", "both"):
        raise UsageError(f"There is no protocol {protocol!r}.", "Choose from paper, frame, both.")
    from sdps.core.console import need

    torch = need("torch", "train")
    if threads:
        torch.set_num_threads(threads)
    from sdps.training.restorers import open_restorer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if rainy is None:
        if out:
            raise UsageError("--out goes with pictures of your own.", "Give INPUT and TARGET, or a data set.")
        with closing(open_restorer(model, provider, device)) as restorer:
            _held_out(restorer, limit, as_json)
        return
    sets = _sets(rainy, clean, limit)
    protocols = ("paper", "frame") if protocol == "both" else (protocol,)
    with closing(open_restorer(model, provider, device)) as restorer:
        _score_sets(restorer, sets, protocols, out, worst, as_json)


def _sets(rainy: Path, clean: Path | None, limit: int) -> dict[str, list[Pair]]:
    """The pairs to score, by set; a picture that does not fit is refused by name."""
    from sdps.core.metrics import SMALLEST
    from sdps.training.datasets import check_pairs, pair_up, recognise, refuse

    if clean is not None:
        pairs, problems = pair_up(rainy, clean)
        sets = {rainy.name: pairs}
    else:
        data = recognise(rainy)
        sets, problems = data.part("test", "all", "val"), data.problems
        if not sets:
            raise UsageError(
                f"{rainy} holds training pictures only.", "Give two folders, rainy and clean, to score them."
            )
        sets = {rainy.name if name == "all" else name: pairs for name, pairs in sets.items()}
    refuse(problems)
    if not any(sets.values()):
        raise UsageError(f"{rainy} and {clean} have no picture in common.", "Pairs have the same name.")
    if limit:
        sets = {name: pairs[:limit] for name, pairs in sets.items()}
    refuse([line for pairs in sets.values() for line in check_pairs(pairs, SMALLEST)[1]])
    return sets


def _score_sets(
    restorer: Restorer,
    sets: dict[str, list[Pair]],
    protocols: tuple[str, ...],
    out: Path | None,
    worst: int,
    as_json: bool,
) -> None:
    from sdps.training import report
    from sdps.training.datasets import read_pair
    from sdps.training.protocol import means, score_pictures
    from sdps.training.worst_sheet import WorstSheet

    found: dict[str, list[Mean]] = {}
    scores: dict[str, list[PictureScore]] = {}
    sheet = WorstSheet(worst)
    with _progress(sum(len(pairs) for pairs in sets.values())) as advance:
        for name, pairs in sets.items():

            def pictures(pairs: list[Pair] = pairs) -> Iterator[tuple[str, Image, Image]]:
                for pair in pairs:
                    yield (pair.name, *read_pair(pair))
                    advance()

            scores[name] = score_pictures(pictures(), restorer, protocols, partial(sheet.add, name))
            found[name] = means(scores[name])
    if out:
        report.write_csv(out / "scores.csv", scores)
        report.write_means(out / "scores.json", restorer.name, found)
        sheet.write(out / "worst.png")
    if as_json:
        typer.echo(report.to_json(restorer.name, found))
    else:
        report.show(restorer.name, found)
    if out:
        typer.echo(f"wrote {out / 'scores.csv'}, scores.json and worst.png", err=True)


def _held_out(restorer: Restorer, limit: int, as_json: bool) -> None:
    import json
    import math

    from rich.console import Console

    from sdps.training.evaluate import evaluate, looks_here, summarise, table
    from sdps.training.photos import load_split

    photos = load_split("evaluate")[: limit or None]
    looks = looks_here()
    with _progress(len(looks) * len(photos)) as advance:
        scores = evaluate(restorer.frame, photos, looks, lambda done: advance())
    if as_json:
        rows: list[dict[str, Any]] = []
        for look, *values in summarise(scores):
            finite = [value if math.isfinite(value) else None for value in values]
            names = ("rain", "before", "after", "gain", "worst_gain")
            rows.append(dict(zip(names, (look, *finite), strict=True)))
        typer.echo(json.dumps({"model": restorer.name, "photographs": len(photos), "psnr_rgb": rows}))
    else:
        Console().print(table(restorer.name, scores))


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
