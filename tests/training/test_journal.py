"""Measures as JSON lines and for TensorBoard, and the figures."""

import json
import struct

import numpy as np
import pytest
from PIL import Image

from jaxpurify.training import journal as module
from jaxpurify.training.journal import Journal, curve, read_records, samples


def events(run):
    """Read TensorBoard's files by their format: length, checksum, record, checksum; records are protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((run / "tensorboard").iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            found.append(Event.FromString(content[position + 12 : position + 12 + length]))
            position += 12 + length + 4
        assert position == len(content)
    return found


def scalars(run):
    """What TensorBoard shows: a new session hides what an earlier one said about its first step and later ones."""
    shown: dict = {}
    for event in events(run):
        if event.HasField("session_log"):
            shown = {place: value for place, value in shown.items() if place[1] < event.step}
        for value in event.summary.value:
            shown[value.tag, event.step] = value.simple_value
    return shown


def test_lines_and_events_say_the_same(tmp_path):
    with Journal(tmp_path, step=0) as journal:
        journal.write("train", 4, {"loss": 0.5, "psnr": np.float32(20)})
        # Everything is there already: a process that is killed loses nothing.
        assert scalars(tmp_path) == {("train/loss", 4): 0.5, ("train/psnr", 4): 20.0}
        journal.write("held out", 4, {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == journal.records == read_records(tmp_path)
    assert lines == [
        {"kind": "train", "step": 4, "loss": 0.5, "psnr": 20.0},
        {"kind": "held out", "step": 4, "loss": 0.25},
    ]
    assert scalars(tmp_path)["held out/loss", 4] == 0.25


def test_events_have_the_checksums_that_tensorboard_asks_for(tmp_path):
    from tensorboardX.record_writer import masked_crc32c

    with Journal(tmp_path, step=0) as journal:
        journal.write("train", 1, {"loss": 1.0})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert ".tfevents." in path.name
    content, position = path.read_bytes(), 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        header, record = content[position : position + 8], content[position + 12 : position + 12 + length]
        assert struct.unpack_from("<I", content, position + 8)[0] == masked_crc32c(header)
        assert struct.unpack_from("<I", content, position + 12 + length)[0] == masked_crc32c(record)
        position += length + 16


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path):
    with Journal(tmp_path, step=0) as journal:
        for step in (2, 4, 6):
            journal.write("train", step, {"loss": step / 10})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # killed in the middle of a line
    assert [record["step"] for record in read_records(tmp_path)] == [2, 4, 6]
    with Journal(tmp_path, step=5) as journal:
        assert [record["step"] for record in journal.records] == [2, 4]
        journal.write("train", 6, {"loss": 1.0})
    assert [(record["step"], record["loss"]) for record in read_records(tmp_path)] == [(2, 0.2), (4, 0.4), (6, 1.0)]
    assert {step: round(value, 3) for (_, step), value in scalars(tmp_path).items()} == {2: 0.2, 4: 0.4, 6: 1.0}


def test_a_folder_without_records_has_none(tmp_path):
    assert read_records(tmp_path) == []


def test_a_full_disk_is_one_sentence(tmp_path):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    def fill():
        with Journal(tmp_path, step=0) as journal:
            journal._file.close()
            journal._file = Full()
            journal.write("train", 4, {"loss": 1.0})

    with pytest.raises(
        OSError, match=r"cannot write the measures of step 4 to .* \(No space left on device\): the last "
    ):
        fill()


def pixels(figure):
    with Image.open(__import__("io").BytesIO(module._png(figure))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_figure_of_samples_has_a_row_an_image_and_a_column_a_title():
    colours = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]], np.float32)
    panels = {
        title: np.broadcast_to(colours[row][None, None, None], (2, 5, 5, 3))
        for row, title in enumerate(("a", "b", "c"))
    }
    panels["b"] = np.full((2, 9, 9, 1), 2.0, np.float32)  # grey, of another size, and beyond white
    drawn = pixels(samples(panels))
    tile, gap, top = module.TILE, module.GAP, module.TEXT
    assert abs(drawn.shape[1] - (3 * (tile + gap) - gap)) <= 1
    for row in range(2):
        for column, expected in enumerate((colours[0], np.ones(3), colours[2])):
            place = drawn[top + row * (tile + gap) + tile // 2, column * (tile + gap) + tile // 2]
            np.testing.assert_allclose(place / 255, expected, atol=0.01)


def test_a_curve_has_a_panel_a_measure_and_survives_any_numbers():
    records = [
        {"kind": "train", "step": 4, "loss": 0.5, "psnr": 20.0, "step_size": 0.1, "images_per_second": 9.0},
        {"kind": "train", "step": 8, "loss": 0.3, "psnr": 22.0, "step_size": 0.1, "images_per_second": 9.0},
        {"kind": "held out", "step": 8, "loss": 0.4, "psnr": 21.0},
    ]
    figure = curve(records)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "PSNR (dB)"]
    train, held_out = figure.axes[1].lines
    np.testing.assert_array_equal(train.get_xydata(), [[4, 20], [8, 22]])
    np.testing.assert_array_equal(held_out.get_xydata(), [[8, 21]])
    for odd in ([], records[:1], [records[0] | {"loss": 0.0, "psnr": float("inf")}], [{"kind": "train", "step": 1}]):
        assert pixels(curve(odd)).size
