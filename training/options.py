"""The options of `sdps-train`, as typer takes them: a type for each, by panel of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdps.core.console import version_printer

SCHEDULE_PANEL, MACHINE_PANEL = "Schedule", "Machine"

# What is trained on what

Data = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DATA]",
        help="Folder of rainy and clean pictures: Rain100L/H, RealRain-1k, Rain13K, input/ and target/.",
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Clean photographs to rain on instead (about 2 MB of memory each). "
        "Without both: photographs that are fetched from Debian.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The run's folder; one that is there goes on. (default: runs/PRESET, runs/NAME-qat)",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Network and recipe: paper, nano, small; tau0..tau3; mprnet, gates, hierarchical, csff, "
        "psf1, psf40. (default: paper)",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS|NAME",
        help="Begin with these weights: their network, grown into that of --preset if that is given.",
    ),
]
Qat = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS|NAME",
        help="Fine-tune these weights for INT8, with INT8's rounding; then: sdps-export --int8.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="WEIGHTS|NAME",
        help="Learn from what these weights restore, too, not from the clean pictures alone "
        "(knowledge distillation): a larger network's.",
    ),
]
TeacherShare = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Of --teacher: its share of the loss. (default: 0.5)")
]
Int8Share = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1,
        help="Of --qat: the least part of the multiply-accumulates to be INT8. The layers that cost "
        "most for their work stay in floating point. (default: 0.9)",
    ),
]

# The schedule

Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Length in epochs: one patch of every picture each. (paper: 2000)",
        rich_help_panel=SCHEDULE_PANEL,
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Length in steps. (nano: 12000)", rich_help_panel=SCHEDULE_PANEL)
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Fit the schedule to this time: 45m, 2h, 1h30m.", rich_help_panel=SCHEDULE_PANEL
    ),
]
Patch = Annotated[
    int | None,
    typer.Option(
        min=16,
        help="Side of a patch in pixels, a multiple of 4. (paper: 128)",
        rich_help_panel=SCHEDULE_PANEL,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        min=1, help="Patches a step, of all GPUs together. (paper: 2)", rich_help_panel=SCHEDULE_PANEL
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate after warm-up. (paper: 1e-4)", rich_help_panel=SCHEDULE_PANEL),
]
Average = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99999,
        help="Decay of the weights' moving average; 0: none. (paper: 0, nano: 0.999)",
        rich_help_panel=SCHEDULE_PANEL,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Of weights, patches and rain.", rich_help_panel=SCHEDULE_PANEL)
]
Every = Annotated[
    float,
    typer.Option(
        min=0.01, metavar="MINUTES", help="Validate and save so often.", rich_help_panel=SCHEDULE_PANEL
    ),
]

# The machine

Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda", help="Several GPUs: start it with torchrun.", rich_help_panel=MACHINE_PANEL
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="fp32|bf16|fp16", help="Arithmetic; weights stay FP32.", rich_help_panel=MACHINE_PANEL
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="torch.compile: faster steps after minutes of compiling; needs a C++ compiler.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that prepare patches ahead. (default: 0 on a CPU, else up to 8)",
        rich_help_panel=MACHINE_PANEL,
    ),
]
Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads; 0: PyTorch's own choice.", rich_help_panel=MACHINE_PANEL)
]
Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=version_printer("sdps-train"), is_eager=True, help="Print the version."
    ),
]
