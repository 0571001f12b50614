"""A finished run whose figures are known, made without attacking anything."""

import numpy as np
import pytest

from jaxpurify.evaluation import run_folder
from jaxpurify.evaluation.result import Evaluation
from jaxpurify.files import write_json

SIZE = 8 / 255


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run folder and loads it: ``left`` is how many of the images each attack leaves.

    The undefended classifier and each purifier get 45 of 50 images right clean.
    """

    def make(left, *, random=(), sizes=(), examples=True, attack="PGD-40", reasons=(), **config):
        count, clean = 50, 45
        threats = list(dict.fromkeys(threat for figures in left.values() for threat in figures))
        records = []

        def add(name, threat, attack, epsilon, right):
            ways = (
                {"mean": right, "worst": max(0, right - 5), "majority": right} if name in random else {"single": right}
            )
            for way, number in ways.items():
                for image in range(count):
                    correct = float(image < number)
                    records.append(
                        {
                            "image": image,
                            "label": image % 3,
                            "purifier": name,
                            "threat_model": threat,
                            "attack": attack,
                            "norm": "" if threat == "clean" else "linf",
                            "epsilon": epsilon,
                            "scoring": way,
                            "correct": correct,
                            "selection": correct,
                            "prediction": "",
                            "loss": 0.0,
                            "margin": 0.0,
                            "distance": epsilon,
                            "forwards": 41,
                            "backwards": 40,
                            "status": 0,
                        }
                    )

        for name, figures in left.items():
            add(name, "clean", "none", 0.0, clean)
            for threat, right in figures.items():
                own = "RandomNoise-100" if threat == "noise" else attack
                add(name, threat, own, SIZE, right)
                for size in sizes if threat != "noise" else ():
                    add(name, threat, own, size, round(clean + (right - clean) * size / SIZE))
        arguments = {
            "data": {"name": "squares", "images": count},
            "demonstration": False,
            "class_names": ["one", "two", "an unusually long name"],
            "classifier": {"name": "toy"},
            "purifiers": {name: "Identity()" if name == "none" else "P()" for name in left},
            "undefended": "none",
            "attacks": {attack: "PGD()"},
            "threat_models": threats,
            "noise_draws": 100,
            "not_evaluated": [list(reason) for reason in reasons],
            "zero_gradient": [],
        } | config
        run = tmp_path / "my run"
        write_json(run / "config.json", {"arguments": arguments, "environment": {"jax": "0.0.0"}})
        run_folder.write_csv(run / "records.csv", records)
        for number, (name, figures) in enumerate(left.items()):
            for threat in figures if examples else ():
                own = "RandomNoise-100" if threat == "noise" else attack
                write_example(run / "examples" / f"{number}-{threat}.npz", names=(name, threat, own))
        return Evaluation.load(run)

    return make


def write_example(path, *, names, size=(12, 10), purified=(12, 10), channels=3, count=3):
    """Write the example images of one attack; what is said of them is right, wrong and not finite in turn."""
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(count, *size, channels)).astype(np.float32)
    labels = np.arange(count) % 3
    run_folder.write_whole(
        path,
        lambda file: np.savez_compressed(
            file,
            clean=clean,
            attacked=np.clip(clean + rng.choice([-SIZE, SIZE], clean.shape), 0, 1).astype(np.float32),
            purified=rng.uniform(size=(count, *purified, channels)).astype(np.float32),
            labels=labels,
            before=np.resize([0, 0, -1], count),
            after=labels,
            names=np.array(names),
        ),
    )
    return path


@pytest.fixture(name="write_example")
def _write_example():
    return write_example
