import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpurify
from jaxpurify import attacks
from jaxpurify.attacks.attack import Attack
from jaxpurify.evaluation import Evaluation, evaluate
from jaxpurify.models import classifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing

rng = np.random.default_rng(0)
WEIGHTS = np.float32(rng.normal(size=(64, 3)))
IMAGES = np.float32(rng.uniform(size=(20, 8, 8, 1)))


def apply(weights, images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights


LABELS = np.asarray(apply(WEIGHTS, IMAGES)).argmax(axis=1)

# What is a plain function here has another address in every process, and its set of names another order.
SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxpurify import attacks, models
from jaxpurify.evaluation import evaluate

rng = np.random.default_rng(0)
weights = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)
images = np.float32(rng.uniform(size=(20, 8, 8, 1)))

def network(images):
    return (images - 0.5).reshape(images.shape[0], -1) @ weights

def margin(outputs, labels, names={"one", "two", "three"}):
    return -jnp.take_along_axis(outputs, labels[:, None], axis=1)[:, 0]

@models.purifier
class Noise:
    random = True
    sigma: float = 0.1
    def __call__(self, images, key=None):
        return images + self.sigma * jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(key)

for folder in sys.argv[1:]:
    evaluate(
        network,
        {"dark": lambda images: 0.5 * images, "noise": Noise()},
        (images, np.asarray(network(images)).argmax(axis=1)),
        attacks=attacks.PGD(epsilon=0.1, steps=5, loss=margin),
        threat_models=("blind", "full"),
        epsilons=(0.05,),
        batch_size=8,
        run=folder,
        progress=False,
    )
    print("done", flush=True)
"""


def start(*folders):
    package = Path(jaxpurify.__file__).parent.parent
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folders[0].parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # as the command has it
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, folders)],
        env=os.environ | cache | {"PYTHONPATH": str(package), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(folder):
    return sorted((folder / "parts").glob("*.csv"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed half-way, taken up again by the same call, and beside it one that never stopped."""
    folder = tmp_path_factory.mktemp("runs")
    broken, whole = folder / "broken", folder / "whole"
    process = start(broken)
    deadline = time.monotonic() + 120
    while len(parts(broken)) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    left = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts(broken)}
    finished = (broken / "summary.json").exists() or (broken / "report.html").exists()
    process = start(broken, whole)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return broken, whole, left, finished


def test_a_killed_run_gives_the_records_of_an_unbroken_one(killed):
    broken, whole, left, finished = killed
    assert not finished
    assert 6 <= len(left) < len(parts(whole))
    assert (broken / "records.csv").read_bytes() == (whole / "records.csv").read_bytes()
    assert (broken / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert [path.name for path in parts(broken)] == [path.name for path in parts(whole)]
    for kind in ("adversarial", "examples"):
        assert len(list((broken / kind).iterdir())) == len(list((whole / kind).iterdir()))
    assert len(Evaluation.load(broken).records) == 500


def test_what_was_finished_is_not_computed_again(killed):
    broken, _, left, _ = killed
    now = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in parts(broken)}
    assert {name: now[name] for name in left} == left


def test_nothing_half_written_is_left(killed):
    for folder in killed[:2]:
        assert not list(folder.rglob("*.partial"))
        assert not list(folder.rglob(".*"))


def run(folder, model=None, **options):
    defaults = {"attacks": attacks.FGSM(epsilon=0.1), "threat_models": ("blind", "bpda"), "batch_size": 8}
    model = classifier(apply, WEIGHTS) if model is None else model
    defences = {"bits": BitDepth(bits=3.0)}
    return evaluate(model, defences, (IMAGES, LABELS), run=folder, progress=False, **(defaults | options))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, run(folder)


@pytest.fixture
def searches(monkeypatch):
    found, search = [], Attack.search
    monkeypatch.setattr(Attack, "search", lambda self, *a, **b: found.append(self) or search(self, *a, **b))
    return found


def test_a_finished_run_is_read_again(done, searches):
    folder, first = done
    text = (folder / "records.csv").read_bytes()
    again = run(folder)
    assert not searches
    assert (folder / "records.csv").read_bytes() == text
    assert str(again.records) == str(first.records)
    assert str(Evaluation.load(folder).records) == str(first.records)


def test_only_what_is_missing_is_computed(done, searches):
    folder, first = done
    text, missing = (folder / "records.csv").read_bytes(), parts(folder)[::5]
    for path in missing:
        path.rename(path.with_name(f".{path.name}.partial"))  # as a kill would leave it, but complete
        path.with_name(f".{path.name}.partial").write_bytes(b"image,lab")
    kept = {path: path.stat().st_mtime_ns for path in parts(folder)}
    again = run(folder)
    assert 0 < len(searches) <= len(missing)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all(path.exists() for path in missing)
    assert (folder / "records.csv").read_bytes() == text
    assert str(again.records) == str(first.records)


def test_with_or_without_a_folder_records_are_the_same(done):
    assert str(run(None).records) == str(done[1].records)


def closed_over(factor):
    weights = jnp.asarray(WEIGHTS * factor)
    return lambda images: apply(weights, images)


OTHERS = {
    "classifier": {"model": classifier(apply, WEIGHTS + np.float32(1e-4))},
    "attacks": {"attacks": attacks.FGSM(epsilon=0.1, loss="margin")},
    "threat models": {"threat_models": ("blind",)},
    "key": {"key": jax.random.key(1)},
    "batch size, buckets": {"batch_size": 4},
    "devices": {"devices": 2},
    "epsilons": {"epsilons": (0.05,)},
    "noise draws": {"noise_draws": 7},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_evaluation_is_refused_and_changes_nothing(done, what):
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match=f"holds an evaluation with other {what}: give the same arguments"):
        run(folder, **OTHERS[what])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_data_and_purifiers_are_refused(done):
    folder, _ = done
    model, options = classifier(apply, WEIGHTS), {"run": folder, "attacks": attacks.FGSM(epsilon=0.1), "batch_size": 8}
    options["threat_models"] = ("blind", "bpda")
    with pytest.raises(ValueError, match="with other data:"):
        evaluate(model, {"bits": BitDepth(bits=3.0)}, (IMAGES[::-1], LABELS[::-1]), **options)
    with pytest.raises(ValueError, match="with other purifiers:"):
        evaluate(model, {"bits": BitDepth(bits=4.0)}, (IMAGES, LABELS), **options)
    with pytest.raises(ValueError, match="with other purifiers, zero gradient:"):
        evaluate(model, {"bits": GaussianSmoothing(sigma=1.0)}, (IMAGES, LABELS), **options)


def test_weights_that_a_plain_function_closes_over_are_told_apart(tmp_path):
    run(tmp_path / "run", closed_over(1.0), threat_models="blind")
    run(tmp_path / "run", closed_over(1.0), threat_models="blind")
    with pytest.raises(ValueError, match="other classifier:"):
        run(tmp_path / "run", closed_over(1.0001), threat_models="blind")
