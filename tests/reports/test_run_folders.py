"""Run folders: whatever is cut, lost, changed or shared, the records of an unbroken run or one sentence."""

import functools
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxpurify as jp
from jaxpurify import attacks, runs
from jaxpurify.evaluation import Evaluation, evaluate
from jaxpurify.evaluation.identity import identify
from jaxpurify.purifiers import BitDepth
from jaxpurify.training import Recipe, Task, fit

rng = np.random.default_rng(0)
WEIGHTS = np.float32(rng.normal(size=(48, 3)))
IMAGES = np.float32(rng.uniform(size=(6, 4, 4, 3)))
LABELS = np.asarray((IMAGES - 0.5).reshape(6, -1) @ WEIGHTS).argmax(axis=1)
PIXELS = rng.integers(0, 256, (40, 6, 6, 3), np.uint8)


def apply(weights, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


def run(folder, model=None, **options):
    model = jp.classifier(apply, WEIGHTS) if model is None else model
    defaults = {"attacks": attacks.FGSM(epsilon=0.1), "threat_models": ("blind",), "batch_size": 2}
    return evaluate(
        model, {"bits": BitDepth(bits=3.0)}, (IMAGES, LABELS), run=folder, progress=False, **defaults | options
    )


class Gain(nnx.Module):
    def __init__(self, rngs):
        self.gain = nnx.Param(jnp.ones(3))

    def __call__(self, images):
        return images * self.gain[...]


class Negative(Task):
    def network(self, rngs):
        return Gain(rngs)

    def prepare(self, data, *, split="train"):
        return data

    def batch(self, source, rows, random):
        top = int(random.integers(3))
        return {"images": source[rows][:, top : top + 4, :4]}

    def loss(self, network, batch, key):
        images = batch["images"].astype(jnp.float32) / 255
        return jnp.square(network(images) - (1 - images)).mean(axis=(1, 2, 3)), {}


RECIPE = Recipe(batch_size=4, learning_rate=0.05, held_out=0.25, log_every=2, score_every=2, save_every=2, keep=2)


def train(folder, data=PIXELS, *, task=None, steps=6, recipe=RECIPE):
    return fit(task or Negative(), data, steps=steps, run=folder, key=jax.random.key(0), recipe=recipe)


def log_of(folder):
    found = jp.training.journal.read_records(folder)
    return [{name: value for name, value in each.items() if name != "images_per_second"} for each in found]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    run(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        train(folder)
    return folder


@pytest.fixture
def copy(tmp_path):
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut after a line": lambda content: content[: content.rfind(b"\n", 0, -1) + 1],
    "emptied": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "end in zeros": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "a bit changed": flipped,
    "no UTF-8": lambda content: b"\xff\xfe" + content,
}


def quick(names, *chosen):
    """All of them, those that are not chosen in the slow run alone."""
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("damage", quick(DAMAGES, "cut in the middle", "cut after a line", "a bit changed"))
def test_a_damaged_part_is_computed_anew(evaluated, copy, damage):
    folder = copy(evaluated)
    expected = (folder / "records.csv").read_bytes()
    for part in sorted((folder / "parts").iterdir())[::2]:
        part.write_bytes(DAMAGES[damage](part.read_bytes()))
    run(folder)
    assert (folder / "records.csv").read_bytes() == expected
    assert {path.name: path.read_bytes() for path in (folder / "parts").iterdir()} == {
        path.name: path.read_bytes() for path in (evaluated / "parts").iterdir()
    }


def test_removed_parts_and_a_removed_configuration_give_the_same_records(evaluated, copy):
    folder = copy(evaluated)
    expected = (folder / "records.csv").read_bytes()
    for path in (sorted((folder / "parts").iterdir())[1], folder / "records.csv", folder / "config.json"):
        path.unlink()
    run(folder)
    assert (folder / "records.csv").read_bytes() == expected


def test_parts_of_another_evaluation_are_never_read(evaluated, copy, tmp_path):
    other = tmp_path / "other"
    model = jp.classifier(apply, -WEIGHTS)
    run(other, model)
    expected = (other / "records.csv").read_bytes()
    for part in (evaluated / "parts").iterdir():
        shutil.copy(part, other / "parts")
    run(other, model)
    assert (other / "records.csv").read_bytes() == expected
    folder = copy(evaluated)  # which has lost its configuration
    (folder / "config.json").unlink()
    before = contents(folder)
    with pytest.raises(ValueError, match=r"has no config\.json, and parts/.* does not say that it is of this"):
        run(folder, model)
    assert contents(folder) == before


def test_a_folder_of_an_earlier_version_is_drawn_and_not_taken_up(evaluated, copy):
    folder = copy(evaluated)
    config = runs.parse((folder / "config.json").read_bytes())
    del config["format"]
    jp.files.write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=r"another version of jaxpurify, whose parts do not say which weights"):
        run(folder)
    Evaluation.load(folder).write()


def torch_model(factor=1.0):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.BatchNorm1d(3))
    with torch.no_grad():
        module[1].weight[2, 5] *= factor
    return module


class Holder:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        return apply(self.weights, images)


GLOBAL = np.array(WEIGHTS)


def reads_a_global(images):
    return apply(GLOBAL, images)


def through_another(images):
    return reads_a_global(images)


def near(weights):
    weights = np.array(weights)
    weights[7, 1] = np.nextafter(weights[7, 1], np.float32(9))
    return weights


MODELS = {
    "closure": lambda w: lambda images: apply(w, images),
    "default": lambda w: lambda images, weights=w: apply(weights, images),
    "partial": lambda w: functools.partial(apply, w),
    "object": Holder,
    "bound method": lambda w: Holder(w).__call__,
    "jitted": lambda w: jax.jit(lambda images: apply(w, images)),
    "leaves": lambda w: jp.classifier(apply, w),
}


def weights_of(model):
    return identify(jp.classifier(model))[0]


@pytest.mark.parametrize("kind", MODELS)
def test_weights_one_rounding_apart_are_told_apart_wherever_they_are(kind):
    first, again, other = (weights_of(MODELS[kind](weights)) for weights in (WEIGHTS, WEIGHTS.copy(), near(WEIGHTS)))
    assert first == again != other


@pytest.mark.parametrize("function", [reads_a_global, through_another])
def test_weights_in_a_global_variable_are_told_apart(monkeypatch, function):
    first = weights_of(function)
    assert weights_of(function) == first
    monkeypatch.setitem(globals(), "GLOBAL", near(WEIGHTS))
    assert weights_of(function) != first


def test_weights_in_modules_of_the_users_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "own_models").mkdir()
    (tmp_path / "own_models" / "__init__.py").write_text("from own_models import weights, network")
    (tmp_path / "own_models" / "weights.py").write_text("import numpy as np\nW = np.ones((48, 3), np.float32)")
    (tmp_path / "own_models" / "network.py").write_text("def scale(images):\n    return 2 * images")
    monkeypatch.syspath_prepend(tmp_path)
    models = importlib.import_module("own_models")
    source = "def model(images):\n    images = own_models.network.scale(images)\n"
    source += "    return images.reshape(len(images), -1) @ own_models.weights.W"
    names = {"own_models": models, "__name__": "__main__"}
    exec(source, names)
    first = weights_of(names["model"])
    assert weights_of(names["model"]) == first
    models.weights.W[3, 1] = np.nextafter(np.float32(1), np.float32(2))
    second = weights_of(names["model"])
    monkeypatch.setattr(models.network, "scale", lambda images: 3 * images)
    assert len({first, second, weights_of(names["model"])}) == 3


def test_weights_and_buffers_of_a_torch_module_are_told_apart():
    changed = torch_model()
    changed[2].running_mean[0] += 1e-6
    modules = (torch_model(), torch_model(), torch_model(1 + 1e-6), changed)
    found = [identify(jp.interop.torch_classifier(module)) for module in modules]
    assert found[0] == found[1]
    assert len({weights for weights, _ in found}) == 3
    assert all(seen for _, seen in found)


def test_answers_are_compared_exactly_of_what_does_not_show_its_weights(tmp_path):
    def model(weights):
        hidden = memoryview(weights.tobytes())
        return lambda images: apply(np.frombuffer(hidden, np.float32).reshape(48, 3), images)

    assert not identify(model(WEIGHTS))[1]
    run(tmp_path, model(WEIGHTS))
    with pytest.raises(ValueError, match=r"classifier or purifiers \(they answer otherwise on the first image\): give"):
        run(tmp_path, model(WEIGHTS * np.float32(1 + 1e-6)))


@pytest.mark.parametrize("place", ["one pixel", "order", "held out", "dtype"])
def test_training_data_are_compared_whole(trained, place):
    other = PIXELS.copy()
    if place == "one pixel":
        other[39, 5, 5, 2] ^= 1  # outside every crop of the first rows
    elif place == "held out":
        other[17, 0, 5, 0] ^= 1
    elif place == "order":
        other[[30, 31]] = other[[31, 30]]
    else:
        other = other.astype(np.int16)
    before = contents(trained)
    with pytest.raises(ValueError, match="holds a training with other data: give the same arguments"):
        train(trained, other)
    assert contents(trained) == before


def test_labels_are_part_of_the_training_data(tmp_path):
    images, labels = np.float32(rng.uniform(size=(24, 8, 8, 3))), np.arange(24) % 2
    sources = [jp.datasets.Dataset(images=images, labels=each, class_names=("a", "b")) for each in (labels, 1 - labels)]
    task = jp.training.Classifier(network_name="photos-cnn")
    found = {jp.training.folder.hash_data(task, [(each, np.arange(3))]) for each in sources for _ in range(2)}
    assert len(found) == 2


def test_a_refusal_says_which_field_differs(trained):
    import dataclasses

    with pytest.raises(ValueError, match=r"with other recipe\.clip \(1\.0, now 2\.0\): give the same"):
        train(trained, recipe=dataclasses.replace(RECIPE, clip=2.0))
    with pytest.raises(ValueError, match=r"with other steps \(6, now 7\): give the same"):
        train(trained, steps=7)


@pytest.fixture(autouse=True)
def ordinary_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


BAD_LINES = {
    "garbage": b"garbage\n",
    "null": b"null\n",
    "no step": b'{"kind": "train"}\n',
    "no UTF-8": b"\xff\xfe\n",
    "zeros": bytes(20) + b"\n",
    "a measure that is no number": b'{"kind": "train", "step": 1, "loss": null}\n',
    "a list": b"[1, 2]\n",
    "half a line": b'{"kind": "train", "st\n',
}


@pytest.mark.parametrize("what", quick(BAD_LINES, "garbage", "null", "no UTF-8"))
def test_a_bad_line_of_the_log_is_named_and_nothing_is_lost(trained, copy, what):
    folder = copy(trained)
    path = folder / "metrics.jsonl"
    path.write_bytes(BAD_LINES[what] + path.read_bytes())
    before = contents(folder)
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged at line 1 \(.*\): put the line right, or take it"):
        train(folder)
    assert contents(folder) == before


def test_a_cut_last_line_of_the_log_is_left_out_and_lost_lines_are_named(trained, copy):
    folder, expected = copy(trained), log_of(trained)
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "train", "st')
    train(folder)
    assert log_of(folder) == expected
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds \d lines about the first 6 steps, where the run"):
        train(folder)
    assert path.read_bytes() == whole[: len(whole) // 2]
    path.write_bytes(whole.replace(b'"loss": 0.', b'"loss": 1.', 1))
    with pytest.raises(ValueError, match=r"holds 6 lines about the first 6 steps, where these have changed"):
        train(folder)


SMALL = {"emptied": b"", "cut": b'{"lo', "null": b"null", "zeros": bytes(9), "no UTF-8": b"\xff\xfe", "a list": b"[]"}


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 6])
@pytest.mark.parametrize("name", ["metrics/metrics", "_CHECKPOINT_METADATA"])
def test_damaged_notes_of_any_checkpoint_are_named(trained, copy, name, step):
    folder = copy(trained)
    path = folder / "checkpoints" / str(step) / name
    for content in SMALL.values():
        path.write_bytes(content)
        before = contents(folder)
        with pytest.raises(ValueError, match=rf"{name}.*: remove the folder .*/{step} to go on") as caught:
            train(folder)
        assert "\n" not in str(caught.value)
        assert contents(folder) == before
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}: No such file or directory\): remove the folder"):
        train(folder)
    shutil.rmtree(folder / "checkpoints" / str(step))  # as it says
    train(folder)
    assert log_of(folder) == log_of(trained)


def test_a_checkpoint_of_another_training_is_left_alone(trained, tmp_path):
    other = tmp_path / "other"
    train(other, PIXELS[::-1].copy())
    (other / "config.json").unlink()
    before = contents(other)
    with pytest.raises(ValueError, match=r"has no config\.json, and checkpoints may be of another training"):
        train(other)
    assert contents(other) == before
    train(other, PIXELS[::-1].copy())  # those arguments are its own
    shutil.copy(trained / "config.json", other)
    with pytest.raises(ValueError, match=r"of another training: move the folder .*checkpoints/\d away"):
        train(other)


def test_a_configuration_without_arguments_is_one_sentence(trained, evaluated, copy):
    for text in ('{"arguments": null, "environment": {}}', "", "\x00" * 30, "[" * 100_000, '{"arguments": {}}'):
        for folder, call in ((trained, train), (evaluated, run)):
            place = copy(folder)
            (place / "config.json").write_text(text)
            with pytest.raises(ValueError, match=r"config\.json"):
                call(place)
            shutil.rmtree(place)


class Waiting(Negative):
    """Waits in the middle of its first step until it is told to go on."""

    inside, go_on = threading.Event(), threading.Event()

    def loss(self, network, batch, key):
        self.inside.set()
        assert self.go_on.wait(60)
        return super().loss(network, batch, key)


def test_the_second_training_in_a_folder_is_refused_at_once_and_the_first_goes_on(tmp_path):
    done = []

    def first():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            done.append(train(tmp_path / "run", task=Waiting()))

    thread = threading.Thread(target=first)
    thread.start()
    assert Waiting.inside.wait(60)
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"run folder .*run is being written by process {os.getpid()} on .*: wait"):
        train(tmp_path / "run", task=Waiting())
    assert time.monotonic() - start < 5
    Waiting.go_on.set()
    thread.join()
    assert len(done) == 1
    assert not (tmp_path / "run" / ".lock").exists()


def test_an_evaluation_claims_its_folder_until_it_ends(tmp_path, monkeypatch):
    tried = []
    write = Evaluation.write

    def second(self):
        with pytest.raises(ValueError, match=rf"run folder .*run is being written by process {os.getpid()} on .*: w"):
            run(tmp_path / "run")
        tried.append(self)
        write(self)

    monkeypatch.setattr(Evaluation, "write", second)
    run(tmp_path / "run")
    assert len(tried) == 1
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_dies_with_its_process(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from jaxpurify import runs\n"
        "lock = runs.lock_folder(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(jp.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"is being written by process {process.pid} on "):
            runs.check_unclaimed(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    runs.lock_folder(tmp_path).close()
    assert not (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_or_that_is_read_only_refuses_nothing(tmp_path, monkeypatch):
    import errno

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runs, "_claim", none)
    runs.lock_folder(tmp_path).close()
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", lambda *arguments: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    runs.lock_folder(tmp_path).close()


def test_a_folder_that_cannot_be_written_says_why(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(ValueError, match="cannot be written: File too large; choose another"):
            run(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
import jaxpurify as jp
from jaxpurify.training import Recipe, SuperResolution, fit

rng = np.random.default_rng(0)
weights, images = np.float32(rng.normal(size=(192, 3))), np.float32(rng.uniform(size=(24, 8, 8, 3)))
network = lambda images: (images - 0.5).reshape(images.shape[0], -1) @ weights
jp.evaluate(network, {"dark": lambda images: 0.5 * images}, (images, np.asarray(network(images)).argmax(axis=1)),
    attacks=jp.attacks.PGD(epsilon=0.1, steps=20), threat_models=("blind", "full"), batch_size=2,
    run=sys.argv[1] + "/evaluation", progress=False)
recipe = Recipe(batch_size=4, average=0.9, held_out=0.2, log_every=2, score_every=5, save_every=3)
pictures = list(rng.integers(0, 256, (10, 24, 24, 3), np.uint8))
fit(SuperResolution(features=4, blocks=1, patch=8), pictures, steps=25, run=sys.argv[1] + "/training",
    key=jax.random.key(0), recipe=recipe)
"""


def start(folder):
    environment = os.environ | {"PYTHONPATH": str(Path(jp.__file__).parent.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache")}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    return subprocess.Popen(command, env=environment | cache, stderr=subprocess.PIPE, text=True)


def finish(folder):
    process = start(folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def written(folder):
    names = ("evaluation/records.csv", "evaluation/summary.json", "training/weights.safetensors")
    return [(folder / name).read_bytes() for name in names], log_of(folder / "training")


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_twice_in_one_folder_is_unbroken(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(whole)
    begun = time.monotonic()
    finish(tmp_path / "again")  # with the compiled programs of the first: as long as those that are killed
    longest = time.monotonic() - begun
    chance = random.Random(0)
    for _ in range(10):
        process = start(broken)
        time.sleep(chance.uniform(0.3, 1.0) * longest)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    processes = [start(broken), start(broken)]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0 or "is being written by process" in error.strip().splitlines()[-1], error
    finish(broken)
    assert written(broken) == written(whole)
    assert not [path for path in broken.rglob(".*") if path.name != ".lock"]
