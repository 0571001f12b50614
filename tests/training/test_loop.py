"""The training loop: to the bit after any interruption, on any devices, never without a good checkpoint."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jaxpurify.networks import weights
from jaxpurify.parallel import placement
from jaxpurify.testing import count_compilations
from jaxpurify.training import Recipe, Task, fit, loop
from jaxpurify.training.checkpoints import Checkpoints
from jaxpurify.training.journal import read_records
from jaxpurify.training.programs import Programs

STEPS, KEY = 11, jax.random.key(3)
# Checkpoints (3, 6, 9, 11) in the middle of lines of the log (4, 8, 11) and apart from scores (5, 10, 11).
RECIPE = Recipe(
    batch_size=4, learning_rate=0.05, average=0.9, held_out=0.25, log_every=4, score_every=5, save_every=3, keep=2
)
DATA = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def ordinary_promotion():
    """Optax's and Flax's own steps do not pass the strict settings."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Filter(nnx.Module):
    """Gain and offset a channel, dropped out at random: keys of its own are part of the state."""

    def __init__(self, rngs, *, drop):
        self.gain, self.offset = nnx.Param(rngs.normal((3,))), nnx.Param(jnp.zeros(3))
        self.dropout = nnx.Dropout(drop, rngs=rngs.fork())

    def __call__(self, images):
        return self.dropout(images * self.gain[...] + self.offset[...])


@dataclasses.dataclass(frozen=True)
class Negative(Task):
    """Learn the negative of noisy images."""

    noise: float = 0.1
    drop: float = 0.2

    metric = "loss"

    def network(self, rngs):
        return Filter(rngs, drop=self.drop)

    def prepare(self, data, *, split="train"):
        return data

    def batch(self, source, rows, random):
        top, left = random.integers(3, size=2)
        return {"images": source[rows][:, top : top + 6, left : left + 6]}

    def loss(self, network, batch, key):
        images = batch["images"].astype(jnp.float32) / 255
        seen = images + self.noise * jax.random.normal(key, images.shape)
        weights = jax.tree.leaves(nnx.state(network, nnx.Param))
        output = network(seen.astype(weights[0].dtype)).astype(jnp.float32)
        error = jnp.square(output - (1 - images)).mean(axis=(1, 2, 3))
        return error, {"bits": jnp.full(len(images), float(weights[0].dtype.itemsize * 8))}

    def panels(self, network, batch, key):
        images = batch["images"].astype(jnp.float32) / 255
        return {"input": images, "network": network(images)}


STILL = Negative(noise=0.0, drop=0.0)


def train(run, task=None, *, data=DATA, steps=STEPS, key=KEY, recipe=RECIPE, **options):
    return fit(task or Negative(), data, steps=steps, run=run, key=key, recipe=recipe, **options)


def written(run):
    """What a run leaves that must not depend on where it was interrupted, by name."""
    records = [{name: value for name, value in each.items() if name != "images_per_second"} for each in records_of(run)]
    files = {path.name: path.read_bytes() for path in [*run.glob("samples/*"), run / "curve.png"]}
    return {"records": records, "weights": (run / "weights.safetensors").read_bytes()} | files


def records_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def leaves(run, task=None, recipe=RECIPE):
    """The last checkpoint: step, weights, other state, average and optimiser."""
    programs = Programs(task or Negative(), recipe, steps=STEPS, rngs=nnx.Rngs(KEY), placement=placement())
    checkpoints = Checkpoints(run / "checkpoints", keep=2, metric="loss", greater_is_better=False)
    state = checkpoints.restore(programs.start)
    checkpoints.close()
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(state)
    ]


def saved(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with count_compilations() as compilations:
        trained = train(run)
    return run, trained, compilations


@pytest.fixture
def at_step(monkeypatch):
    """Do something once the given step was computed."""

    def set_up(step, action):
        advance = Programs.advance

        def advanced(self, state, parts, keys):
            result = advance(self, state, parts, keys)
            if int(result[0].step) == step:
                action()
            return result

        monkeypatch.setattr(Programs, "advance", advanced)

    return set_up


def test_it_learns_and_leaves_what_it_says(unbroken):
    run, trained, _ = unbroken
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.json",
        "curve.png",
        "metrics.jsonl",
        "samples",
        "tensorboard",
        "weights.safetensors",
    ]
    assert [(each["kind"], each["step"]) for each in trained.records] == [
        ("train", 4),
        ("held out", 5),
        ("train", 8),
        ("held out", 10),
        ("train", 11),
        ("held out", 11),
    ]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        f"step-{step:07d}.png" for step in (1, 5, 10, 11)
    ]
    train, held_out = (
        [each["loss"] for each in trained.records if each["kind"] == kind] for kind in ("train", "held out")
    )
    assert train[-1] < train[0]
    assert held_out[-1] < held_out[0]
    assert trained.records == records_of(run) == read_records(run)


def test_the_trained_network_is_the_averaged_one_in_evaluation_mode(unbroken):
    run, trained, _ = unbroken
    found = leaves(run)
    gain, offset = np.asarray(trained.module.gain[...]), np.asarray(trained.module.offset[...])
    assert sum(np.array_equal(leaf, gain) for leaf in found) == 1
    assert sum(np.array_equal(leaf, offset) for leaf in found) == 1
    images = jnp.asarray(DATA[:2] / np.float32(255))
    np.testing.assert_allclose(trained.function(images), images * gain + offset, atol=1e-6)


def test_each_program_is_compiled_once_for_all_steps(unbroken):
    _, _, compilations = unbroken
    assert compilations.count("_step") == 1
    assert compilations.count("_evaluated") == 2  # the score, and the samples
    assert compilations.count("_part") == compilations.count("_update") == 0


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(7, id="between checkpoints", marks=pytest.mark.slow),
        pytest.param(9, id="before the checkpoint of its step"),
    ],
)
def test_killed_and_resumed_is_unbroken_to_the_bit(unbroken, at_step, tmp_path, step, monkeypatch):
    monkeypatch.setattr(loop, "AHEAD", 1)  # how far ahead batches are cut is no matter either

    def fail():
        raise RuntimeError("killed")

    at_step(step, fail)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path)
    assert saved(tmp_path)[-1] == 6
    monkeypatch.undo()
    train(tmp_path)
    assert written(tmp_path) == written(unbroken[0])
    for found, expected in zip(leaves(tmp_path), leaves(unbroken[0]), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(7, id="between lines of the log"),
        pytest.param(8, id="where a line is due", marks=pytest.mark.slow),
    ],
)
def test_a_training_that_was_asked_to_stop_saves_and_goes_on_to_the_bit(unbroken, at_step, tmp_path, step, monkeypatch):
    at_step(step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert saved(tmp_path)[-1] == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    train(tmp_path)
    assert written(tmp_path) == written(unbroken[0])


def test_asked_twice_it_stops_at_once(at_step, tmp_path):
    def ask():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(7, ask)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert saved(tmp_path) == [3, 6]


def test_a_finished_training_gives_the_same_again(unbroken):
    run, trained, _ = unbroken
    before = written(run)
    again = train(run)
    assert written(run) == before
    assert again.records == trained.records
    np.testing.assert_array_equal(again.module.gain[...], trained.module.gain[...])


def test_the_last_checkpoints_and_the_best_are_kept(unbroken, at_step, tmp_path, monkeypatch):
    assert saved(unbroken[0]) == [9, 11]
    scores = iter([0.5, 0.1, 0.3, 0.4, 0.2, 0.6])
    monkeypatch.setattr(loop.Run, "_score", lambda self, state, done, journal: {"loss": next(scores)})
    recipe = dataclasses.replace(RECIPE, score_every=2, save_every=2, keep=1)

    def fail():
        raise RuntimeError("killed")

    at_step(9, fail)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, recipe=recipe)
    assert saved(tmp_path) == [4, 8]
    monkeypatch.undo()
    monkeypatch.setattr(loop.Run, "_score", lambda self, state, done, journal: {"loss": 0.2})
    train(tmp_path, recipe=recipe)
    assert saved(tmp_path) == [4, 11]  # the best score was not forgotten when the run went on
    best, last = (weights.read(tmp_path / f"{name}.safetensors") for name in ("best", "weights"))
    assert all(np.abs(best[name] - last[name]).max() > 0 for name in best)


@pytest.mark.slow
def test_devices_agree_and_what_they_trained_goes_to_any_of_them(tmp_path):
    one = train(tmp_path / "one", STILL)
    two = train(tmp_path / "two", STILL, devices=2)
    noisy = [train(tmp_path / f"noisy {count}", devices=count) for count in (1, 2)]
    for first, second in ((one, two), noisy):
        for name in ("gain", "offset"):
            np.testing.assert_allclose(getattr(first.module, name)[...], getattr(second.module, name)[...], atol=1e-5)
    images = np.ones((1, 4, 4, 3), np.float32)
    for device in jax.devices():
        placed = jax.device_put(images, device)
        np.testing.assert_allclose(jax.jit(two.function)(placed), one.function(jnp.asarray(images)), atol=1e-5)


@pytest.mark.slow
def test_a_batch_in_parts_is_the_whole_batch(tmp_path):
    whole = train(tmp_path / "whole", STILL)
    with count_compilations() as compilations:
        parts = train(tmp_path / "parts", STILL, recipe=dataclasses.replace(RECIPE, accumulate=4))
    assert compilations.count("_part") == 2  # the first, which adds to nothing, and the others
    assert compilations.count("_update") == 1
    for name in ("gain", "offset"):
        np.testing.assert_allclose(getattr(whole.module, name)[...], getattr(parts.module, name)[...], atol=1e-6)
    for first, second in zip(whole.records, parts.records, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-6)


def test_bfloat16_is_for_the_step_and_float32_for_what_is_kept(unbroken, tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="bfloat16")
    trained = train(tmp_path, recipe=recipe)
    assert {each["bits"] for each in trained.records if each["kind"] == "train"} == {16}
    assert {each["bits"] for each in unbroken[1].records} == {32}
    floats = [leaf for leaf in leaves(tmp_path, recipe=recipe) if np.issubdtype(leaf.dtype, np.floating)]
    assert len(floats) >= 8
    assert {leaf.dtype for leaf in floats} == {np.dtype(np.float32)}
    assert not np.any(floats[0] == floats[0].astype(jnp.bfloat16).astype(np.float32))
    assert trained.records[-1]["loss"] == pytest.approx(unbroken[1].records[-1]["loss"], rel=0.05)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_the_average_is_that_of_a_loop(decay):
    recipe = dataclasses.replace(RECIPE, average=decay)
    programs = Programs(STILL, recipe, steps=STEPS, rngs=nnx.Rngs(KEY), placement=placement())
    state, batch = programs.start, {"images": jnp.asarray(DATA[:4])}
    expected = np.asarray(state.average["gain"][...], np.float64)
    for step in range(6):
        state, _ = programs.advance(state, [batch], [KEY])
        kept = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        expected = kept * expected + (1 - kept) * np.asarray(state.parameters["gain"][...], np.float64)
        np.testing.assert_allclose(state.average["gain"][...], expected, rtol=1e-6)


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path):
    class Poisoned(Negative):
        def batch(self, source, rows, random):
            found = super().batch(source, rows, random)
            return found | {"images": found["images"].astype(np.float32) * (np.nan if next(count) == 8 else 1)}

        def scored_batch(self, source, rows, random):
            return super().batch(source, rows, random)

    count = itertools.count(-1)  # two looks at the data come before the steps
    with pytest.raises(ValueError, match=r"no longer finite at step 8: .* the checkpoint of step 6 is kept in"):
        train(tmp_path, Poisoned())
    assert saved(tmp_path) == [3, 6]
    assert all(np.isfinite(leaf).all() for leaf in leaves(tmp_path))


def test_a_folder_that_holds_another_training_is_refused_and_left_as_it_is(unbroken):
    run, _, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    others = {
        "task": {"task": Negative(noise=0.2)},
        "recipe": {"recipe": dataclasses.replace(RECIPE, clip=2.0)},
        "data": {"data": DATA[::-1]},
        "key": {"key": jax.random.key(4)},
        "steps": {"steps": STEPS + 1},
    }
    for name, options in others.items():
        with pytest.raises(ValueError, match=rf"holds a training with other {name}\b.*: give the same arguments"):
            train(run, **options)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read .*: choose another folder"):
        train(tmp_path)


def test_what_cannot_be_trained_is_refused(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        train(run, steps=0)
    with pytest.raises(TypeError, match="task"):
        train(run, Filter)
    with pytest.raises(ValueError, match=r"a part of the batch has 1 examples, which 2 devices cannot share"):
        train(run, devices=2, recipe=dataclasses.replace(RECIPE, accumulate=4))
    with pytest.raises(ValueError, match="leaves none of 1 examples to train on"):
        train(run, data=DATA[:1], recipe=dataclasses.replace(RECIPE, held_out=0.9))
    assert not run.exists()


def test_other_data_can_be_scored_on(tmp_path):
    class Counted(Negative):
        def scored_batch(self, source, rows, random):
            assert len(source) == 3
            return super().scored_batch(source, rows, random)

        def batch(self, source, rows, random):
            used.update(rows.tolist() if len(source) == len(DATA) else ())
            return super().batch(source, rows, random)

    used: set[int] = set()
    trained = train(tmp_path, Counted(), held_out=DATA[:3])
    assert used == set(range(len(DATA)))
    assert trained.records[-1]["kind"] == "held out"


def test_what_is_held_out_is_never_trained_on(tmp_path):
    class Watched(Negative):
        def batch(self, source, rows, random):
            trained_on.update(rows.tolist())
            return super().batch(source, rows, random)

        def scored_batch(self, source, rows, random):
            scored_on.update(rows.tolist())
            return super().batch(source, rows, random)

    trained_on: set[int] = set()
    scored_on: set[int] = set()
    run = loop.Run(Watched(), DATA, steps=STEPS, run=tmp_path, key=KEY, recipe=RECIPE)
    trained_on.clear()  # the fingerprint of the data looks at both
    run.finish()
    assert len(scored_on) == 3
    assert len(trained_on) == 9
    assert not trained_on & scored_on


TRAINING = """
    import sys
    import jax, numpy as np
    import jaxpurify as jp
    from jaxpurify.training import Recipe, SuperResolution, fit

    run, devices, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    if pause:
        import time
        from jaxpurify.training.programs import Programs
        advance = Programs.advance
        Programs.advance = lambda *arguments: (time.sleep(pause), advance(*arguments))[1]
    recipe = Recipe(batch_size=4, average=0.9, held_out=0.2, log_every=4, score_every=5, save_every=3)
    task = SuperResolution(features=4, blocks=1, patch=8)
    pictures = list(np.random.default_rng(0).integers(0, 256, (10, 24, 24, 3), np.uint8))
    fit(task, pictures, steps=30, run=run, key=jax.random.key(0), recipe=recipe, devices=devices)
"""


def start(run, *, devices=1, pause=0.0):
    command = [sys.executable, "-c", textwrap.dedent(TRAINING), str(run), str(devices), str(pause)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(run, **options):
    process = start(run, **options)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_bit(tmp_path):
    finish(tmp_path / "unbroken")
    killed = tmp_path / "killed"
    for last in (8, 20):
        process = start(killed, pause=0.2)
        deadline = time.monotonic() + 120
        while not any(each["step"] >= last for each in read_records(killed)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "weights.safetensors").exists()
    finish(killed)
    assert written(killed) == written(tmp_path / "unbroken")


@pytest.mark.slow
def test_one_and_four_devices_agree(tmp_path):
    from safetensors.numpy import load_file

    for count in (1, 4):
        finish(tmp_path / str(count), devices=count)
    one, four = (load_file(tmp_path / str(count) / "weights.safetensors") for count in (1, 4))
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_allclose(one[name], four[name], atol=1e-5, err_msg=name)
    for first, second in zip(records_of(tmp_path / "1"), records_of(tmp_path / "4"), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)


def test_pictures_of_a_run_can_be_opened(unbroken):
    run, _, _ = unbroken
    for path in [run / "curve.png", *run.glob("samples/*.png")]:
        with Image.open(path) as picture:
            assert picture.convert("RGB").getcolors(maxcolors=8) is None, f"{path} is nearly empty"
