"""The doctor's report for eyes: the verdict first, then what to mend, then what there is."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sdps.core.doctor import Facts, Report
from sdps.core.video_devices import Camera

SIZES_SHOWN = 4


def show(report: Report, console: Console) -> None:
    """Prints a report. Commands stand on lines of their own, never wrapped, to be copied whole."""
    mark = "[bold green]yes[/]" if report.works else "[bold red]no[/]"
    console.print(f"{mark}  {escape(report.verdict)}")
    if report.problems:
        console.print("\n[bold]To look into[/]")
    for problem in report.problems:
        console.print(f"- {escape(problem.what)}")
        _command(console, problem.remedy)
    console.print()
    console.print(_abilities(report))
    remedies: dict[str, list[str]] = {}
    for ability in report.abilities:
        if not ability.can and ability.remedy:
            remedies.setdefault(ability.remedy, []).append(ability.title)
    if remedies:
        console.print("\n[bold]To get what is missing[/]")
    for remedy, titles in remedies.items():
        console.print(f"- {escape(', '.join(titles))}")
        _command(console, remedy)
    console.print()
    console.print(_machine(report.facts))
    console.print()
    console.print(_libraries(report.facts))
    if report.facts.cameras:
        console.print()
        console.print(_cameras(report.facts.cameras))


def _command(console: Console, text: str) -> None:
    if text:
        console.print(f"    {text}", style="cyan", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _abilities(report: Report) -> Table:
    table = _table("sdps can", "", "how, or why not")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for ability in report.abilities:
        mark = "[green]yes[/]" if ability.can else "[yellow]no[/]"
        table.add_row(ability.title, mark, escape(ability.why))
    return table


def _machine(facts: Facts) -> Table:
    table = _table("this machine", "")
    table.columns[0].no_wrap = True
    for name, value in machine_rows(facts):
        table.add_row(name, escape(value))
    return table


def machine_rows(facts: Facts) -> list[tuple[str, str]]:
    """(name, text) of each thing that is known of the machine."""
    rows: list[tuple[str, str]] = []
    if system := facts.system:
        inside = ", in a container" if system.container else ""
        rows.append(("system", f"{system.os}, kernel {system.kernel}, {system.machine}{inside}"))
        kind = "virtual environment" if system.venv else "no virtual environment"
        seen = " that sees the system's packages" if system.venv and system.sees_system_packages else ""
        rows.append(("Python", f"{system.python}, {kind}{seen} ({system.executable})"))
    if board := facts.jetson:
        jetpack = f"JetPack {board.jetpack or 'unknown'}, Jetson Linux {board.l4t or 'unknown'}"
        rows.append(("Jetson", f"{board.model}, {jetpack}"))
        pinned = {True: ", clocks pinned", False: ", clocks free", None: ""}[board.clocks_pinned]
        rows.append(("power mode", f"{board.power_mode or 'unknown'}{pinned}"))
    if cpu := facts.cpu:
        quota = f", quota of {cpu.quota:g} cores" if cpu.quota else ""
        features = f"; {', '.join(cpu.features)}" if cpu.features else ""
        rows.append(("processor", f"{cpu.model}, {cpu.usable} of {cpu.cores} cores usable{quota}{features}"))
    if (memory := facts.memory) and memory.total_gb:
        rows.append(("memory", f"{memory.available_gb} of {memory.total_gb} GB available"))
    rows.append(("GPU", _gpu(facts)))
    rows.append(("bundled models", ", ".join(facts.models) or "none"))
    if disk := facts.disk:
        state = "" if disk.writable else ", not writable"
        rows.append(("cache folder", f"{disk.cache_folder}{state}, {disk.free_gb} GB free"))
    return rows


def _gpu(facts: Facts) -> str:
    if not facts.gpu:
        return facts.smi.name or "none" if facts.smi else "none"
    driver = f", driver {facts.smi.driver}" if facts.smi and facts.smi.driver else ""
    memory = f", {facts.smi.memory_gb} GB" if facts.smi and facts.smi.memory_gb else ""
    return (
        f"{facts.gpu['name']}, compute capability {facts.gpu['compute_capability']}{memory}{driver},"
        f" CUDA up to {facts.gpu['cuda_driver']}"
    )


def _libraries(facts: Facts) -> Table:
    table = _table("library", "version", "")
    for name, library in facts.libraries.items():
        table.add_row(name, library.version or "-", escape(library_note(name, facts)))
    return table


def library_note(name: str, facts: Facts) -> str:
    """One line on a library beside its version."""
    library = facts.libraries[name]
    if library.state == "missing":
        return "not installed"
    if library.state == "broken":
        return f"broken: {library.error}"
    known = library.facts
    if library.state == "installed":
        return "installed (not imported: no GPU that it could use)"
    if name == "av":
        return f"libavcodec {known.get('ffmpeg', '?')}; encoders {', '.join(known['encoders']) or 'none'}"
    if name == "PIL":
        return f"without {', '.join(known['lacks'])}" if known["lacks"] else "pictures and letters"
    if name == "cv2":
        return f"GStreamer: {'yes' if known['gstreamer'] else 'no'}"
    if name == "torch":
        works = "works" if known.get("cuda_works") else "does not work here"
        return f"CUDA {known['cuda']} {works}" if known.get("cuda") else "without CUDA"
    if name == "pygame":
        return f"display: {known['display'] or 'none'}"
    if name == "tensorrt":
        return f"from {facts.tensorrt_file}"
    return ", ".join(known.get("providers", known.get("devices", [])))


def _cameras(cameras: list[Camera]) -> Table:
    table = _table("camera", "name", "format", "sizes (at most frames/s)")
    for camera in cameras:
        first = (camera.device, escape(camera.name or camera.error))
        if not camera.formats:
            table.add_row(*first, "", "")
        for number, kind in enumerate(camera.formats):
            largest = sorted(kind.sizes, key=lambda size: (-size.width * size.height, -size.width))
            parts = [
                f"{'up to ' if size.up_to else ''}{size.width}x{size.height}"
                + (f" ({size.fps[0]:g})" if size.fps else "")
                for size in largest[:SIZES_SHOWN]
            ]
            more = f" and {len(largest) - SIZES_SHOWN} smaller" if len(largest) > SIZES_SHOWN else ""
            cells = first if number == 0 else ("", "")
            table.add_row(*cells, escape(kind.fourcc), ", ".join(parts) + more)
    return table
