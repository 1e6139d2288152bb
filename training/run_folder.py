"""What a training run leaves in its folder, so that it can be killed at any moment and go on.

- `recipe.json`: network, schedule and pictures, as plain text;
- `last.pt`: everything to go on from; `last.safetensors`: the weights, for every other command;
- `best.safetensors`: the weights of the best validation so far;
- `original.safetensors`: what a quantisation-aware run began with;
- `log.jsonl`: a line for each validation; `tensorboard/`: curves.

One process at a time writes there; its lock is the file `.lock`, which the system frees however that
process ends. Every file is written under another name and renamed; lines of the log that are younger than
`last.pt`, which a killed run leaves, are taken out again when it goes on.
"""

from __future__ import annotations

import errno
import json
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sdps.calibration.fake_quant import steps_of
from sdps.calibration.trained import ORIGINAL, TrainedRanges
from sdps.core.artifact import atomic_path, sha256_of, write_bytes, write_json
from sdps.core.console import need
from sdps.core.errors import SdpsError, UsageError
from sdps.model import SDPSFNet, load_checkpoint, save_checkpoint
from sdps.training.data import Source
from sdps.training.trainer import Trainer

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems answer that know no locks: some network mounts."""


class RunFolder:
    """The folder of one run.

    Args:
        path: Made if need be.
        source: The pictures; a run goes on with the same ones only.
        original: What a quantisation-aware run fine-tunes; it is kept beside the results.
        begun: What else a run goes on with only, by the option that gives it, e.g. {"precision": "fp32"}.
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        original: SDPSFNet | None = None,
        begun: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.original, self.begun, self.held = path, original, dict(begun or {}), False
        # Names of folders need not be UTF-8, and JSON has to be.
        name = source.name.encode("utf-8", "backslashreplace").decode()
        self.pictures = {"name": name, "count": source.count, "sha256": source.fingerprint()}

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @contextmanager
    def alone(self, first: bool = True) -> Iterator[None]:
        """Holds the folder's lock, also from within. What it made and nothing was put into goes again.

        Args:
            first: Whether this process is the one of its run that writes.

        Raises:
            UsageError: another process has it.
            SdpsError: the folder cannot be made or written to.
        """
        if not first or self.held:
            yield
            return
        filelock = need("filelock")
        lock = filelock.FileLock(self.path / ".lock")
        made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(
                f"Another process trains in {self.path}.", "Wait until it ends, or give another --out."
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, NotImplementedError) or error.errno in NO_LOCKS:
                sys.stderr.write(f"{self.path} cannot be locked: train there with one command at a time.\n")
                yield
                return
            raise SdpsError(
                f"The folder {self.path} cannot be written to: {error.strerror or error}.",
                "Give another --out.",
            ) from error
        self.held = True
        try:
            yield
        finally:
            self.held = False
            with suppress(OSError):  # it is gone already; Windows keeps what is open
                if made and [file.name for file in self.path.iterdir()] == [".lock"]:
                    (self.path / ".lock").unlink()
                    self.path.rmdir()
            lock.release()

    def rounded(self) -> dict[str, float] | None:
        """The sites that a fine-tuning for INT8 begun here rounds, with their steps; None if there is no run.

        Raises:
            UsageError: another kind of run was begun here.
            SdpsError: `last.pt` is damaged.
        """
        state = self._state()
        if state is None:
            return None
        if not state.get("rounded"):
            raise UsageError(
                f"The run in {self.path} is no fine-tuning for INT8, or one of an earlier sdps.",
                "Give another --out.",
            )
        return dict(state["rounded"])

    def load(self, trainer: Trainer) -> dict[str, Any]:
        """Restores a run that was begun here; returns what `save` was told, or {} for a new one.

        Raises:
            UsageError: it has other pictures, another network, recipe or beginning.
            SdpsError: `last.pt` is damaged.
        """
        state = self._state()
        if state is None:
            return {}
        pictures, notes = state["pictures"], state["notes"]
        if pictures != self.pictures:
            raise UsageError(
                f"The run in {self.path} trains on {pictures['count']} other pictures ({pictures['name']}), "
                "or an sdps that cut and rained on them otherwise began it.",
                f"Give the same pictures again, or begin anew: --from {self.path / 'last.safetensors'} and "
                "another --out.",
            )
        self._same_beginning(state.get("begun", {}))
        trainer.restore(state)
        if self.original and not _same(self.original, self.path / ORIGINAL):
            raise UsageError(
                f"The run in {self.path} fine-tunes other weights.", "Give the same again, or another --out."
            )
        return dict(notes)

    def begin(self, trainer: Trainer, again: bool = False) -> None:
        """Writes down what is trained how, and takes out of the log what is younger than `last`.

        `again` takes out the line of `last` itself as well, whose validation was cut off.
        """
        recipe = {"config": asdict(trainer.network.config), **asdict(trainer.recipe)}
        write_json(self.path / "recipe.json", {**recipe, **self.begun, "pictures": self.pictures})
        kept = [line for line in self._log() if json.loads(line)["step"] <= trainer.step - again]
        write_bytes(self.path / "log.jsonl", "".join(kept).encode())
        if self.original:
            save_checkpoint(self.original, self.path / ORIGINAL)

    def save(self, trainer: Trainer, notes: dict[str, Any]) -> None:
        """Writes `last`; `notes` are plain values that `load` gives back.

        Raises:
            SdpsError: there is no room, or no permission; what was there stays.
        """
        path = self.path / "last.pt"
        state = {**trainer.state(), "rounded": steps_of(trainer.network), "begun": self.begun}
        with atomic_path(path) as temporary:
            try:
                torch.save({**state, "pictures": self.pictures, "notes": notes}, temporary)
            except RuntimeError as error:  # what PyTorch's writer makes of a full disk
                raise SdpsError(
                    f"{path} cannot be written: there seems to be no room; what was there stays.",
                    "Make room; the same command goes on from there.",
                ) from error
        self.save_weights(trainer, "last")

    def save_weights(self, trainer: Trainer, name: str) -> None:
        """Writes the averaged weights as NAME.safetensors, and in it the ranges that were trained."""
        network, metadata = trainer.averaged(), {"step": str(trainer.step)}
        if self.original:
            metadata |= TrainedRanges(steps_of(network), sha256_of(self.path / ORIGINAL)).to_metadata()
        save_checkpoint(plain(network), self.path / f"{name}.safetensors", metadata)

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to the log."""
        write_bytes(self.path / "log.jsonl", "".join([*self._log(), json.dumps(entry) + "\n"]).encode())

    def _same_beginning(self, stored: Mapping[str, str]) -> None:
        """Runs of earlier versions stored less; what they did not is taken for the same."""
        for option, value in self.begun.items():
            if stored.get(option, value) != value:
                raise UsageError(
                    f"The run in {self.path} began with another --{option} "
                    f"({stored[option][:19]}, and not {value[:19]}).",
                    "Give the same options again, or another --out.",
                )

    def _state(self) -> dict[str, Any] | None:
        """What `last.pt` holds; None where there is none."""
        path = self.path / "last.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            state["pictures"], state["notes"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise SdpsError(
                f"{path} is not a run to go on with: it is damaged.", "Give another --out, or remove it."
            ) from error
        return state

    def _log(self) -> list[str]:
        path = self.path / "log.jsonl"
        return path.read_text().splitlines(keepends=True) if path.is_file() else []


def plain(network: SDPSFNet) -> SDPSFNet:
    """The same weights in a network of its own that rounds nothing."""
    copied = SDPSFNet(network.config)
    own = dict(network.named_parameters())
    with torch.no_grad():
        for key, value in copied.named_parameters():
            value.copy_(own[key])
    return copied.eval().requires_grad_(False)


def _same(network: SDPSFNet, path: Path) -> bool:
    stored = load_checkpoint(path).state_dict()
    return all(torch.equal(value.cpu(), stored[key]) for key, value in network.state_dict().items())
