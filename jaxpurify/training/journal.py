"""What a training run writes as it goes: measures as JSON lines and for TensorBoard, the loss curve, and samples."""

import contextlib
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpurify import runs
from jaxpurify.files import expanded, write_whole

METRICS = "metrics.jsonl"
TILE, GAP, TEXT = 160, 6, 22  # pixels of a sample figure
DPI = 150


class Journal:
    """Write the measures of a run; a context manager.

    Args:
        run: the run folder.
        step: how many steps are done: what was written about later ones by a run that was killed is forgotten.
        written: how many lines there were about these steps, and their ``digest``; None where that is not known.

    Raises:
        ValueError: if a line is damaged, or lines are missing; the file is left as it is.
    """

    def __init__(self, run: Path, *, step: int, written: tuple[int, str] | None = None):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.run = run
        self.records = [record for record in read_records(run) if record["step"] <= step]
        if written is not None and self.digest() != written:
            differs = "these have changed" if len(self.records) == written[0] else f"the run wrote {written[0]}"
            raise ValueError(
                f"{run / METRICS} holds {len(self.records)} lines about the first {step} steps, where {differs}: put "
                "the file back as it was, or choose another folder"
            )
        write_whole(run / METRICS, lambda file: file.write(self._text().encode()))
        self._file = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        (run / "tensorboard").mkdir(exist_ok=True)
        # Not by a SummaryWriter: its thread dies on a full disk, and the training then waits for it for ever.
        self._board = EventsWriter(str(run / "tensorboard" / "events"), filename_suffix=f".{os.getpid()}.{step}")
        # TensorBoard hides what an earlier file says about later steps.
        start = Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._board.write_event(start)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        # What failed to be written fails again on closing, and would hide the first error.
        with contextlib.suppress(OSError) if any(error) else contextlib.nullcontext():
            self._file.close()
        with contextlib.suppress(OSError) if any(error) else contextlib.nullcontext():
            self._board.close()

    def _text(self) -> str:
        return "".join(json.dumps(record) + "\n" for record in self.records)

    def digest(self) -> tuple[int, str]:
        """Return how many lines there are, and a hash of them.

        Returns:
            What a checkpoint notes.
        """
        return len(self.records), hashlib.sha256(self._text().encode()).hexdigest()

    def sync(self) -> None:
        """Have the lines on the disk, before a checkpoint counts them."""
        os.fsync(self._file.fileno())

    def write(self, kind: str, step: int, measures: Mapping[str, float]) -> None:
        """Write one line.

        Args:
            kind: ``"train"`` or ``"held out"``.
            step: steps done.
            measures: numbers by name.

        Raises:
            OSError: if it cannot be written: a full disk, say.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        record = {"kind": kind, "step": step} | {name: float(value) for name, value in measures.items()}
        self.records.append(record)
        values = [Summary.Value(tag=f"{kind}/{name}", simple_value=float(value)) for name, value in measures.items()]
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._board.flush()
        except OSError as error:
            raise OSError(
                f"cannot write the measures of step {step} to {self.run} ({error.strerror or error}): the last "
                f"checkpoint is kept; make room and give the same command again"
            ) from error

    def samples(self, step: int, panels: Mapping[str, np.ndarray]) -> None:
        """Draw what the network does.

        Args:
            step: steps done.
            panels: images by title.
        """
        if panels:
            picture = _png(samples(panels))
            (self.run / "samples").mkdir(exist_ok=True)
            write_whole(self.run / "samples" / f"step-{step:07d}.png", lambda file: file.write(picture))

    def curve(self) -> None:
        """Draw the measures so far as ``curve.png``."""
        picture = _png(curve(self.records))
        write_whole(self.run / "curve.png", lambda file: file.write(picture))


def read_records(run: str | os.PathLike) -> list[dict[str, Any]]:
    """Read what a run wrote.

    Args:
        run: the run folder.

    Returns:
        A dictionary a line; none where there is no file. A last line that was cut off is left out.

    Raises:
        ValueError: if another line is damaged, or the file cannot be read; naming both.
    """
    path = expanded(run) / METRICS
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({runs.reason(error)}): it should be the log of a training") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged at line {number} ({error}): put the line right, or take it out if it is none of "
                "the run's"
            ) from None
    with contextlib.suppress(ValueError):
        records.append(_record(last))
    return records


def _record(line: bytes) -> dict[str, Any]:
    record = runs.parse(line)
    if not isinstance(record, dict):
        raise ValueError("it is no record")
    if not isinstance(record.get("kind"), str) or type(record.get("step")) is not int:
        raise ValueError("it has no kind and step")
    for name, value in record.items():
        if name != "kind" and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise ValueError(f"its {name} is no number")
    return record


def samples(panels: Mapping[str, np.ndarray]) -> Any:
    """Draw images side by side: a row an image, a column a title.

    Args:
        panels: ``(batch, height, width, channel)`` by title.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    count = min(len(images) for images in panels.values())
    width, height = len(panels) * (TILE + GAP) - GAP, TEXT + count * (TILE + GAP)
    figure = Figure(figsize=(width / DPI, height / DPI), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    for column, (title, images) in enumerate(panels.items()):
        left = column * (TILE + GAP)
        axes.text(left + TILE / 2, TEXT - 6, title, ha="center", va="bottom", fontsize=7)
        for row, image in enumerate(np.asarray(images[:count], np.float32)):
            top = TEXT + row * (TILE + GAP)
            shown, extent = np.clip(image, 0, 1), (left, left + TILE, top + TILE, top)
            axes.imshow(shown, extent=extent, interpolation="nearest", aspect="auto", cmap="gray", vmin=0, vmax=1)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def curve(records: list[dict[str, Any]]) -> Any:
    """Draw every measure against the step, those of training and of images held out in one panel.

    Args:
        records: lines of ``metrics.jsonl``.

    Returns:
        A ``matplotlib.figure.Figure``.
    """
    from matplotlib.figure import Figure

    left_out = ("kind", "step", "images_per_second", "gradient_norm", "step_size")
    names = [name for name in dict.fromkeys(name for record in records for name in record) if name not in left_out]
    figure = Figure(figsize=(4.5 * max(1, len(names)), 3.2), facecolor="white", layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, max(1, len(names)))), names, strict=False):
        for kind, style in (("train", {"lw": 0.8, "alpha": 0.8}), ("held out", {"marker": "o", "ms": 3, "lw": 1.2})):
            points = [(record["step"], record[name]) for record in records if record["kind"] == kind and name in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=kind, **style)
        values = [record[name] for record in records if name in record]
        if name == "loss" and min(values) > 0 and math.isfinite(max(values)):
            axes.set_yscale("log")
        axes.set(xlabel="step", title="PSNR (dB)" if name == "psnr" else name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
