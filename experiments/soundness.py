"""Classifiers with lying gradients planted in them, and sound ones: what attacks leave, and whether it is said.

    python experiments/soundness.py                                 # photographs: a minute
    python experiments/soundness.py --real DATA --output table.md   # CIFAR-10: about ten minutes on two cores

DATA is a folder with cifar10/test.npz (`images`, `labels`) and the checkpoints cifar10/robust_resnet4b.pth of VNN-COMP
2021, and cifar10/resnet20.th and resnet56.th of akamaster/pytorch_resnet_cifar10.

ρ is the correlation of what the gradient of the margin predicts with what the margin does along random directions
(`jaxpurify.attacks.agreement`); the cosine is that of the gradients of cross entropy and margin.

Expected on CIFAR-10: sound models have ρ of at least 0.65 at 1/255 and 0.6 at 4/255, and a cosine of at least 0.85.
Those whose gradients lie have at most 0.4 at 1/255, or no gradient at some images, or go astray, and JPEG and rounding
have no gradient either. Logits that are
tiny, or large in half precision, have true gradients, and full attacks break them.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cifar_classifiers
import jax
import numpy as np

import jaxpurify as jp
from jaxpurify.attacks import PGD, verdict
from jaxpurify.attacks.agreement import measure
from jaxpurify.cli.start import start

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reports"))  # the plants are the tests' too
import planted

NETWORKS = {
    "cifar-resnet4b": "robust_resnet4b.pth",
    "cifar-resnet20": "resnet20.th",
    "cifar-resnet56": "resnet56.th",
}
PLANTS = {
    "decision alone": planted.one_hot,
    "float16 at the logits, × 30": planted.half_logits,
    "log-softmax × 200 with a floor": planted.floored,
    "steep ripple of no height": planted.ripple,
    "ripple along one direction": planted.wave,
    "no gradient near the boundary": planted.lying_at_the_boundary,
    "turned gradient near the boundary": functools.partial(planted.lying_at_the_boundary, turned=True),
    "logits × 1e-30": planted.tiny_logits,
    "30 % of winners": planted.k_winners,
}
PURIFIERS = (
    "gaussian-smoothing",
    "low-pass",
    "wavelet",
    "median",
    "total-variation",
    "resizing",
    "gaussian-noise",
    "random-crop",
    "jpeg",
    "bit-depth",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is attacked and with what budget."""

    real: Path | None = None
    output: Path | None = None
    images: int = 16  # that the bare classifier gets right and full PGD breaks
    steps: int | None = None  # of PGD: 40, or 5
    epsilon: float = 8 / 255
    seed: int = 0


class Case(NamedTuple):
    """One row of the table: a target, and the classifier that it is made of."""

    name: str
    target: Any
    bare: Any


def cases(config: Config) -> Iterator[Case]:
    """Yield the plants, the purifiers and the sound classifiers."""
    bare, *others = classifiers(config)
    yield Case(bare.name, bare, bare)
    for name, plant in PLANTS.items():
        yield Case(name, plant(bare), bare)
    for name in PURIFIERS:
        yield Case(name, jp.Defended(bare, jp.purifiers.make(name)), bare)
    yield Case("hard gate", jp.Defended(bare, planted.HardGate()), bare)
    for other in others:
        yield Case(other.name, other, other)


def classifiers(config: Config) -> list[Any]:
    """Return the classifier that faults are planted in, and other sound ones."""
    if config.real is None:
        return [jp.networks.load_classifier("photos-cnn")]
    return [cifar_classifiers.load(name, config.real / "cifar10" / file) for name, file in NETWORKS.items()]


def broken_images(config: Config, classifier: Any, attack: PGD) -> tuple[np.ndarray, np.ndarray]:
    """Return images that a classifier gets right, and that the attack breaks."""
    data = (
        jp.datasets.load("photos", split="test", limit=4 * config.images)
        if config.real is None
        else jp.datasets.load(str(config.real / "cifar10" / "test.npz"))
    )
    images, labels = data.images[: 8 * config.images], data.labels[: 8 * config.images]
    right = np.asarray(classifier(images)).argmax(axis=1) == labels
    fooled = verdict(attack, classifier, images, labels, jax.random.key(config.seed)).fooled
    chosen = np.flatnonzero(right & fooled)[: config.images]
    return images[chosen], labels[chosen]


def main(config: Config) -> str:
    """Measure and attack every case; return the table, in Markdown."""
    attack = PGD(epsilon=config.epsilon, steps=config.steps or (5 if config.real is None else 40))
    lines = [
        "| target | full PGD leaves | ρ at 1/255 | ρ at 4/255 | zero | lying | astray | cosine | what is said |",
        "|---" * 9 + "|",
    ]
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for case in cases(config):
        if case.bare.name not in known:
            known[case.bare.name] = broken_images(config, case.bare, attack)
        images, labels = known[case.bare.name]
        key = jax.random.key(config.seed)
        found = measure(case.target, images, key)
        assert found is not None
        stood = (1 - verdict(attack, case.target, images, labels, key).fooled).sum()
        said = "–" if found.reliable else found.sentence.partition(":")[0].partition(",")[0]
        near, far = found.rho
        shares = f"{found.zero:.2f} | {found.lying:.2f} | {found.astray:.2f}"
        cells = f"{near:.2f} | {far:.2f} | {shares} | {found.cosine:.2f} | {said}"
        lines.append(f"| {case.name} | {stood:.0f} of {len(images)} | {cells} |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    if config.output is not None:
        config.output.write_text(table + "\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    import tyro

    start()
    print(main(tyro.cli(Config)))
