"""The options of `sdps-export`, as typer takes them: a type for each, by panel of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdps.core.console import version_printer
from sdps.export.arguments import DEFAULT_SIZE, ENGINES, PRECISIONS

GRAPH_PANEL = "Rewrites and exits"
ENGINE_PANEL, ARCH_PANEL, INSPECT_PANEL = "Engine", "Other networks", "Inspect"
INT8_PANEL = "INT8"

# What is made of what

Weights = Annotated[
    str | None,
    typer.Argument(
        metavar="WEIGHTS|NAME",
        help="Checkpoint (.pth, .safetensors), or a name: sdps-nano, rain100h, ...",
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the graph and the engine.")]
Precision = Annotated[
    str | None,
    typer.Option(metavar="|".join(PRECISIONS), help="Number format inside the graph. (default: fp32)"),
]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")]
Bf16 = Annotated[
    bool, typer.Option("--bf16", help="Short for --precision bf16: for GPUs; CPUs do not run it.")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help=f"The one size that the graph takes. (default: {DEFAULT_SIZE})"),
]
Dynamic = Annotated[
    bool, typer.Option("--dynamic", help="A graph for any size (multiples of 4) and any batch instead.")
]
Engine = Annotated[
    str, typer.Option(metavar="|".join(ENGINES), help="NVIDIA builder to put the graph through.")
]
EngineSizes = Annotated[
    str | None,
    typer.Option(
        metavar="MIN,OPT,MAX",
        help="With --dynamic: the engine's sizes. (default: 64x64,720x1280,1088x1920)",
    ),
]
Name = Annotated[str | None, typer.Option(help="The model's name. (default: the checkpoint's)")]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Photograph to compare with PyTorch on. (default: a bundled one)"),
]
MinPsnr = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="DB",
        help="Least PSNR against PyTorch. (default: 60 for fp32, and at most 2 levels; 45 for fp16, "
        "35 for bf16; for int8 35, and of each verification picture without ground truth 40)",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the paths that were written.")]
Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=version_printer("sdps-export"), is_eager=True, help="Print the version."
    ),
]

# Rewrites and exits

ExitStage = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="K",
        help="Cut the network after stage K's image: 0 is the cheapest. (default: the whole network)",
        rich_help_panel=GRAPH_PANEL,
    ),
]
Exits = Annotated[
    str | None,
    typer.Option(
        metavar="all",
        help="A folder with a graph for each exit, between which sdps-run can switch.",
        rich_help_panel=GRAPH_PANEL,
    ),
]
NoRewrite = Annotated[
    bool,
    typer.Option("--no-rewrite", help="The graph as traced, to compare.", rich_help_panel=GRAPH_PANEL),
]
TileMeans = Annotated[
    bool,
    typer.Option(
        "--tile-means",
        help="Let sdps-run --context frame give tiles the means of the whole frame.",
        rich_help_panel=GRAPH_PANEL,
    ),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain", help="Show what each exact rewrite did to the graph.", rich_help_panel=GRAPH_PANEL
    ),
]

# The engine

Cameras = Annotated[
    str | None,
    typer.Option(
        metavar="HxW,...",
        help="The sizes of several cameras: a graph of any size, and an engine with a profile for each.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="MIB",
        help="Most scratch memory that the engine may use.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
OptLevel = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=5,
        help="From 0, a fast build, to 5, a fast engine. (default: the builder's, 3)",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="CC,...|current",
        help="TensorRT-RTX: compute capabilities to build for, e.g. 8.6,8.9. (default: Ampere and later)",
        rich_help_panel=ENGINE_PANEL,
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="TensorRT: where measurements of earlier builds are kept. (default: ~/.cache/sdps)",
        rich_help_panel=ENGINE_PANEL,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="TensorRT: the engine runs on later versions too; slower.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
HardwareCompatible = Annotated[
    str,
    typer.Option(
        metavar="ampere+|same-cc",
        help="TensorRT: the engine runs on other GPUs too; slower.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Dla = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="CORE",
        help="TensorRT on Jetson: run on this DLA core, and on the GPU what it cannot do.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
StripWeights = Annotated[
    bool,
    typer.Option(
        "--strip-weights",
        help="An engine without weights, which --refit fills. Needs a GPU.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Refit = Annotated[
    Path | None,
    typer.Option(
        metavar="ENGINE",
        help="Fill this stripped engine with the weights instead of building. Needs a GPU.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild", help="Build the engine even if a valid one is there.", rich_help_panel=ENGINE_PANEL
    ),
]

# INT8

Calib = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|VIDEO|photos[:DIR]",
        help="Rainy pictures to calibrate on (pairs in input/ and target/), a video, a recording, "
        "'photos': rain rendered on fetched photographs ('photos:' where a folder is called so), "
        "or 'photos:DIR': rain rendered on your own.",
        rich_help_panel=INT8_PANEL,
    ),
]
MaxDrift = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="Most PSNR to lose against the ground truth, mean of a kind of rain. (default: 0.1)",
        rich_help_panel=INT8_PANEL,
    ),
]
MaxTileDrift = Annotated[
    float | None,
    typer.Option(
        metavar="DB",
        help="The same in any single tile; either needs ground truth. (default: 0.5)",
        rich_help_panel=INT8_PANEL,
    ),
]
MaxMeanShift = Annotated[
    float | None,
    typer.Option(
        metavar="LEVELS",
        help="Most change of a colour channel's mean, itself the mean of a kind of rain. (default: 0.25)",
        rich_help_panel=INT8_PANEL,
    ),
]
CalibCrops = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Crops to calibrate on. (default: 128, or what there is)",
        rich_help_panel=INT8_PANEL,
    ),
]
CalibSize = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS", help="Their side, a multiple of 4. (default: 256)", rich_help_panel=INT8_PANEL
    ),
]
Calibrator = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="minmax, percentile, entropy, mse, worst-mse, or the best for each tensor. Default: worst-mse "
        "or mse, whichever drifts less.",
        rich_help_panel=INT8_PANEL,
    ),
]
Int8Rest = Annotated[
    str | None,
    typer.Option(
        metavar="fp16|fp32",
        help="What is not INT8: fp16 for GPUs, fp32 for CPUs. (default: fp16)",
        rich_help_panel=INT8_PANEL,
    ),
]
AllowOverlap = Annotated[
    bool,
    typer.Option(
        "--allow-overlap",
        help="Calibrate on pictures of the evaluation set too.",
        rich_help_panel=INT8_PANEL,
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Pictures that you evaluate on: a set that has one of them is refused.",
        rich_help_panel=INT8_PANEL,
    ),
]

# Other networks

Arch = Annotated[
    str | None,
    typer.Option(
        metavar="spandrel|MODULE:CLASS",
        help="The checkpoint is of another network: one that spandrel knows, or a class of your own.",
        rich_help_panel=ARCH_PANEL,
    ),
]
ArchArgs = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Arguments of that class.", rich_help_panel=ARCH_PANEL),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="What it subtracts from RGB in [0, 1]. (default: 0)",
        rich_help_panel=ARCH_PANEL,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="What it then divides by. (default: 1)", rich_help_panel=ARCH_PANEL),
]
Stride = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="What its sides must be a multiple of. (default: asked or found by trying)",
        rich_help_panel=ARCH_PANEL,
    ),
]
Pick = Annotated[
    int,
    typer.Option(help="Which of several outputs is the result; -1 is the last.", rich_help_panel=ARCH_PANEL),
]

# --inspect

Inspect = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Show what a graph or an engine is made of, and export nothing.",
        rich_help_panel=INSPECT_PANEL,
    ),
]
Required = Annotated[
    str | None,
    typer.Option(
        "--require",
        metavar="PRECISION[:SHARE]",
        help="With --inspect: fail unless convolutions have it, e.g. int8, or int8:0.9 of all MACs.",
        rich_help_panel=INSPECT_PANEL,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="With --inspect: as JSON.", rich_help_panel=INSPECT_PANEL)
]
