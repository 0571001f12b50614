"""All purifiers that need no training, against attackers who know more and more.

    python experiments/training_free.py                                  # photographs, small: a minute or two
    python experiments/training_free.py --real DATA --output table.md    # CIFAR-10 with ResNet-20: about an hour

DATA is a folder with cifar10/train.npz, cifar10/test.npz (`images`, `labels`) and the checkpoint cifar10/resnet20.th of
akamaster/pytorch_resnet_cifar10.

Each purifier's parameters are selected on training images, by the mean of the accuracies on clean and on blind PGD
images (a candidate costs two forward passes); the table is of test images. Random purifiers are attacked through the
expectation over 20 draws a step; an ensemble, which averages draws itself, through one such average a step.
Both evaluations leave a run folder with records, attacked images and a report; the same command takes them up again.

Expected on CIFAR-10: nobody is left under `full`, but a fifth behind quilting, whose clean accuracy is a quarter (see
docs/training-free.md).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cifar_classifiers
import jax
import jax.numpy as jnp
import numpy as np

import jaxpurify as jp
from jaxpurify import keys as jp_keys
from jaxpurify.attacks import PGD, run
from jaxpurify.cli.start import start
from jaxpurify.evaluation import Evaluation
from jaxpurify.evaluation.table import header, rows, title
from jaxpurify.evaluation.threat_models import LADDER
from jaxpurify.models import attribute

# What is tried on training images.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "gaussian-smoothing": tuple(f"gaussian-smoothing:sigma=0.5,iterations={n}" for n in (1, 2, 4)),
    "wavelet": tuple(f"wavelet:sigma={s}" for s in (0.02, 0.04, 0.08, 0.12)),
    "frequency-mask": tuple(
        f"frequency-mask:min_radius={low},max_radius={high}" for low, high in ((0.43, 0.5), (0.33, 0.4), (0.23, 0.3))
    ),
    "frequency-mask fft": (
        "frequency-mask:transform=fft",
        "frequency-mask:transform=fft,min_radius=0.33,max_radius=0.4",
    ),
    "low-pass": tuple(f"low-pass:radius={r}" for r in (0.6, 0.5, 0.4, 0.3)),
    "jpeg": tuple(f"jpeg:quality={q}" for q in (75, 95, 50, 30)),
    "total-variation": tuple(f"total-variation:weight={w}" for w in (0.1, 0.05, 0.03)),
    "random-pixel-total-variation": tuple(f"random-pixel-total-variation:weight={w}" for w in (0.03, 0.01)),
    "bit-depth": tuple(f"bit-depth:bits={b}" for b in (3, 4, 5)),
    "median": ("median:size=3", "median:size=2"),
    "non-local-means": tuple(f"non-local-means:h={h}" for h in (0.05, 0.1, 0.03)),
    "random-resizing": ("random-resizing",),
    "pixel-deflection": tuple(f"pixel-deflection:sigma={s}" for s in (0.04, 0.08)),
    "quilting": ("quilting",),
    "gaussian-noise": tuple(f"gaussian-noise:sigma={s}" for s in (0.05, 0.03, 0.08)),
    "resizing": ("resizing", "resizing:method=lanczos3", "resizing:scale=0.75", "resizing:scale=0.5"),
    # Five crops, not the paper's thirty, which would take as long as all the others together.
    "crop-ensemble": tuple(f"crop-ensemble:share={s},samples=5" for s in (0.75, 0.9)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is evaluated, on what, and how hard it is attacked; None takes the figure that fits the data."""

    real: Path | None = None
    folder: Path = Path("runs/training-free")
    output: Path | None = None
    purifiers: tuple[str, ...] = tuple(CANDIDATES)
    images: int | None = None  # test images: 64 of CIFAR-10, 32 patches of photographs
    training_images: int | None = None  # for selection: 128, or 32
    steps: int | None = None  # of PGD: 40, or 5
    eot_samples: int | None = None  # 20, or 2
    noise_draws: int | None = None  # 100, or 16
    epsilon: float = 8 / 255
    seed: int = 0
    batch_size: int = 32

    def figure(self, name: str, real: int, small: int) -> int:
        """Return a count, or the one that fits the data."""
        value = getattr(self, name)
        return value if value is not None else (small if self.real is None else real)


def load(config: Config) -> tuple[Any, Any, Any]:
    """Load the classifier, and as many training as test images."""
    counts = {"train": config.figure("training_images", 128, 32), "test": config.figure("images", 64, 32)}
    if config.real is None:
        train, test = (jp.datasets.load("photos", split=split, limit=count) for split, count in counts.items())
        return jp.networks.load_classifier("photos-cnn"), train, test
    folder = config.real / "cifar10"
    train, test = (jp.datasets.load(str(folder / f"{split}.npz"), limit=count) for split, count in counts.items())
    return cifar_classifiers.load("cifar-resnet20", folder / "resnet20.th"), train, test


def settings(config: Config) -> dict[str, Any]:
    """Return what a selection depends on."""
    return {
        "real": None if config.real is None else str(config.real),
        "purifiers": {name: list(CANDIDATES[name]) for name in config.purifiers},
        "images": config.figure("training_images", 128, 32),
        "steps": config.figure("steps", 40, 5),
        "epsilon": config.epsilon,
        "seed": config.seed,
    }


def select(config: Config, classifier: Any, train: Any) -> dict[str, str]:
    """Return each purifier's specification with the best mean of clean and blind accuracy on training images."""
    key = jax.random.key(config.seed + 1)
    attack = PGD(epsilon=config.epsilon, steps=config.figure("steps", 40, 5))
    attacked = run(attack, classifier, train.images, train.labels, key, batch_size=config.batch_size).images
    measured: dict[str, dict[str, tuple[float, float]]] = {}
    for name in config.purifiers:
        measured[name] = {}
        for specification in CANDIDATES[name]:
            model = jp.Defended(classifier, jp.purifiers.make(specification))
            measured[name][specification] = tuple(
                accuracy(model, images, train.labels, key, config.batch_size) for images in (train.images, attacked)
            )
            clean, blind = measured[name][specification]
            print(f"{specification:60} clean {clean:6.1%}  blind {blind:6.1%}", flush=True)
    chosen = {name: max(tried, key=lambda text, tried=tried: sum(tried[text])) for name, tried in measured.items()}
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / "selection.json").write_text(
        json.dumps({"settings": settings(config), "chosen": chosen, "measured": measured}, indent=1)
    )
    return chosen


@jax.jit
def _predict(model, images, keys):
    return model(images, keys).argmax(axis=1)


def accuracy(model: Any, images: Any, labels: Any, key: Any, batch_size: int) -> float:
    """Return the share of images that a model gets right, in one draw."""
    keys = jp_keys.per_image(key, len(images)) if attribute(model, "random") else None
    said = [
        np.asarray(
            _predict(model, jnp.asarray(images[i : i + batch_size]), None if keys is None else keys[i : i + batch_size])
        )
        for i in range(0, len(images), batch_size)
    ]
    return float(np.mean(np.concatenate(said) == labels))


def evaluate(config: Config, classifier: Any, test: Any, chosen: dict[str, str]) -> list[Evaluation]:
    """Climb the ladder: purifiers first, ensembles apart, since they average draws themselves."""
    made = {specification: jp.purifiers.make(specification) for specification in chosen.values()}
    samples = config.figure("eot_samples", 20, 2)
    found = []
    for name, ensembles, draws in (("purifiers", False, samples), ("ensembles", True, 1)):
        group = {text: each for text, each in made.items() if attribute(each, "is_ensemble") == ensembles}
        if not group:
            continue
        eot = jp.Expectation(samples=draws, chunk=min(draws, 5))
        found.append(
            jp.evaluate(
                classifier,
                group,
                test,
                attacks=PGD(epsilon=config.epsilon, steps=config.figure("steps", 40, 5), eot=eot),
                threat_models=LADDER,
                key=jax.random.key(config.seed),
                run=config.folder / name,
                batch_size=config.batch_size,
                devices="all",
                noise_draws=config.figure("noise_draws", 100, 16),
            )
        )
    return found


def markdown(config: Config, found: list[Evaluation]) -> str:
    """Return the table of all evaluations, with what it took written below."""
    head = header(found[0])
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    seen = set()
    for evaluation in found:
        for cells in rows(evaluation):
            if cells[0] not in seen:
                seen.add(cells[0])
                lines.append(f"| `{cells[0]}` | " + " | ".join(cells[1:]) + " |")
    attack = f"PGD-{config.figure('steps', 40, 5)} at {round(255 * config.epsilon)}/255"
    about = (
        f"{title(found[0])}. Robust accuracy in percent [95 % interval] under {attack}, random purifiers through the "
        f"expectation over {config.figure('eot_samples', 20, 2)} draws a step, ensembles through one average a step; "
        f"`noise`: {config.figure('noise_draws', 100, 16)} draws. "
        f"Parameters selected on {config.figure('training_images', 128, 32)} training images, scored on test images."
    )
    flags = dict.fromkeys(flag for evaluation in found for flag in evaluation.flags)
    return "\n".join([*lines, "", about, "", *(f"* {flag}" for flag in flags)]) + "\n"


def main(config: Config) -> None:
    """Selects parameters, climbs the ladder and prints the table."""
    classifier, train, test = load(config)
    kept = config.folder / "selection.json"
    earlier = json.loads(kept.read_text()) if kept.exists() else {}
    known = earlier.get("settings") == settings(config)
    chosen = earlier["chosen"] if known else select(config, classifier, train)
    text = markdown(config, evaluate(config, classifier, test, chosen))
    print(text)
    if config.output is not None:
        config.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import tyro

    start()
    main(tyro.cli(Config))
