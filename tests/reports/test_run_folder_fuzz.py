"""Run folders changed at random: what reads them gives what was written, or one sentence that names the file."""

import contextlib
import json
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify as jp
from jaxpurify import attacks, runs
from jaxpurify.evaluation import Evaluation, evaluate
from jaxpurify.evaluation.grid import read_example
from jaxpurify.evaluation.run_folder import RunFolder
from jaxpurify.files import write_json
from jaxpurify.purifiers import BitDepth
from jaxpurify.training import folder as training_folder
from jaxpurify.training.checkpoints import Checkpoints
from jaxpurify.training.journal import Journal

STATE = {"step": jnp.uint32(4), "weights": jnp.arange(300.0), "key": jax.random.key(1)}
ARGUMENTS = {"task": {"name": "toy"}, "steps": 4, "data": {"examples": 3, "sha256": "ab"}}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    rng = np.random.default_rng(0)
    weights, images = rng.normal(size=(48, 3)), np.float32(rng.uniform(size=(4, 4, 4, 3)))
    model = jp.classifier(lambda w, x: (x - 0.5).reshape(len(x), -1) @ w, np.float32(weights))
    run = tmp_path_factory.mktemp("evaluated") / "run"
    options = {"attacks": attacks.FGSM(), "threat_models": ("blind", "bpda"), "batch_size": 2, "progress": False}
    evaluate(model, {"bits": BitDepth(bits=3.0)}, (images, np.arange(4) % 3), run=run, **options)
    for path in (run / "figures").iterdir():
        path.unlink()
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    lock, identity = training_folder.claim(run, ARGUMENTS, data="toy")
    with lock, Journal(run, step=0) as journal:
        checkpoints = opened(run, identity)
        for step in (2, 4):
            journal.write("train", step, {"loss": 1 / step})
            checkpoints.save(step, STATE, {"loss": 1 / step}, waiting=[{"loss": 0.5}], log=journal.digest())
        checkpoints.close()
    shutil.rmtree(run / "tensorboard")
    return run


def opened(run, identity):
    return Checkpoints(run / "checkpoints", keep=2, metric="loss", greater_is_better=False, identity=identity)


def read_evaluation(run, expected):
    """Draw the report but for its figures, then take the run up again as far as its files decide it."""
    kept, arguments = expected
    for path in (run / "examples").iterdir():
        read_example(path)
    with RunFolder(run, arguments) as folder:
        for path, records in kept.items():
            found = folder.read_part(run / "parts" / path)
            assert found is None or str(found) == records, "a changed part is read"
    found = Evaluation.load(run)
    found.table()
    json.dumps(found.summary(), allow_nan=False)


def read_training(run, _):
    """Go on with a training as far as its files decide it."""
    lock, identity = training_folder.claim(run, ARGUMENTS, data="toy")
    with lock:
        checkpoints = opened(run, identity)
        try:
            step = checkpoints.last
            state = checkpoints.restore(STATE) if step else None
            if step == 4:
                assert np.array_equal(state["weights"], STATE["weights"]), "changed weights are read"
                assert checkpoints.waiting() == [{"loss": 0.5}]
            with Journal(run, step=step or 0, written=checkpoints.log) as journal:
                if step == 4:
                    assert [each["loss"] for each in journal.records] == [0.5, 0.25], "another log is read"
        finally:
            checkpoints.close()


def mutate(run, random):
    """Change one file, and return it."""
    path = random.choice(sorted(path for path in run.rglob("*") if path.is_file()))
    content = path.read_bytes()
    place, size = random.randrange(len(content) + 1), random.choice((1, 1, 4, 64))
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    ways = {
        "flip": content[:place] + bytes(byte ^ (1 << random.randrange(8)) for byte in content[place : place + size]),
        "cut": content[:place],
        "empty": b"",
        "zeros": content[:place] + bytes(len(content[place : place + size])),
        "insert": content[:place] + random.randbytes(size),
        "digits": content[:place] + b"9" * len(content[place : place + 1]),
        "null": content[:place] + b"null",
        "remove": None,
        "folder": None,
        "lose a line": b"\n".join(lines[:number] + lines[number + 1 :]),
        "repeat a line": b"\n".join(lines[: number + 1] + lines[number:]),
    }
    way = random.choice(list(ways))
    if way in ("flip", "zeros", "digits"):
        ways[way] += content[len(ways[way]) :]
    if way == "insert":
        ways[way] += content[place:]
    if way == "null":
        ways[way] += content[place + 4 :]
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way != "remove":
        path.write_bytes(ways[way])
    return path, way


def fuzz(original, tmp_path, read, expected, *, count, seed):
    refused = 0
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        run = tmp_path / f"mutant{number}"
        shutil.copytree(original, run)
        path, way = mutate(run, chance)
        start = time.monotonic()
        about = f"mutant {number}: {way} of {path.relative_to(run)}"
        try:
            read(run, expected)
        except ValueError as error:
            sentence = str(error)
            refused += 1
            assert "\n" not in sentence, about
            inside = path.relative_to(run).parts
            named = inside[1] if inside[0] == "checkpoints" else path.name
            # Of a lost configuration, what is left is named; of records, the file that is joined of parts.
            assert str(named) in sentence or (way == "remove" and "config.json" in sentence), f"{about}: {sentence}"
        except Exception as error:
            raise AssertionError(f"{about}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - start < 20, about
        shutil.rmtree(run)
    assert refused > count / 5


@contextlib.contextmanager
def naming(*names):
    """Check that a refusal is one sentence with one of these names in it."""
    try:
        yield
    except ValueError as error:
        sentence = str(error)
        if "\n" in sentence or not any(name in sentence for name in names):
            raise AssertionError(sentence) from error
        raise


def parts_of(run):
    arguments = runs.read_config(run)["arguments"]
    with RunFolder(run, arguments) as folder:
        return {path.name: str(folder.read_part(path)) for path in (run / "parts").iterdir()}, arguments


COUNTS = [30, pytest.param(1_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_folder_of_an_evaluation_is_whole_or_one_sentence(evaluated, tmp_path, count):
    fuzz(evaluated, tmp_path, read_evaluation, parts_of(evaluated), count=count, seed="evaluation")


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_folder_of_a_training_is_whole_or_one_sentence(trained, tmp_path, count):
    fuzz(trained, tmp_path, read_training, None, count=count, seed="training")


FIELDS = (None, True, -1, 1e999, "", "\ud800", [], [None], {}, {"a": None})


def test_any_field_of_the_arguments_that_is_something_else_is_named(evaluated, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    config = runs.read_config(run)

    def places(value, path=()):
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield (*path, key)
            yield from places(value[key], (*path, key))

    for number, path in enumerate(places(config["arguments"])):
        other = json.loads(json.dumps(config))
        parent = other["arguments"]
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = FIELDS[number % len(FIELDS)]
        other["sha256"] = runs.identity(other["arguments"])
        (run / "config.json").write_text(json.dumps(other))
        with contextlib.suppress(ValueError), naming("config.json", "records.csv"):
            found = Evaluation.load(run)
            found.table()
            found.summary()
    write_json(run / "config.json", config)
    assert len(Evaluation.load(run).records) == len(Evaluation.load(evaluated).records)
