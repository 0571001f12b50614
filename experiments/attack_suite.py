"""The strong attacks on models whose robust accuracy is known, on two sets of images that nothing was tuned to.

    python experiments/attack_suite.py                                   # photographs, small budgets: about a minute
    python experiments/attack_suite.py --real DATA --output table.md     # CIFAR-10: about half an hour on two cores

DATA is a folder with cifar10/test.npz (`images`, `labels`: the first 512 of the test set), the checkpoints
cifar10/resnet20.th and resnet56.th of akamaster/pytorch_resnet_cifar10, and cifar10/robust_resnet4b.pth of VNN-COMP
2021, trained adversarially for 2/255. All attacks have their default arguments, which are their papers'.

Expected on CIFAR-10, first 256 images, torchattacks' figures in brackets: at 2/255 APGD leaves 63.3 % [63.3], Square
with 1,000 queries 69.5 % [69.5] and AutoAttack 62.1 % [62.1]; at 4/255 39.8 % [39.8], 55.1 % [55.1] and 39.5 % [39.5].
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cifar_classifiers
import jax

import jaxpurify as jp
from jaxpurify.attacks import APGD, PGD, Attack, AutoAttack, Square, verdict
from jaxpurify.cli.start import start

NETWORKS = {
    "cifar-resnet4b": ("robust_resnet4b.pth", (2 / 255, 4 / 255)),
    "cifar-resnet20": ("resnet20.th", (1 / 255,)),
    "cifar-resnet56": ("resnet56.th", (1 / 255,)),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is attacked and with what budgets; None takes the figure that fits the data."""

    real: Path | None = None
    output: Path | None = None
    images: int | None = None  # of each set: 256, or 16 patches of photographs
    steps: int | None = None  # of PGD 40 and of APGD and FAB 100, or 5
    queries: int | None = None  # of AutoAttack's Square: 5,000, or 50
    networks: tuple[str, ...] = tuple(NETWORKS)  # those not trained to be robust are attacked on an eighth of a set
    seed: int = 0


class Case(NamedTuple):
    """One row of the table: a classifier, a set of images and a size."""

    name: str
    classifier: Any
    images: Any
    labels: Any
    epsilon: float


def cases(config: Config) -> Iterator[Case]:
    """Yield what is attacked."""
    if config.real is None:
        data = jp.datasets.load("photos", split="test", limit=config.images or 16)
        yield Case("photos-cnn", jp.networks.load_classifier("photos-cnn"), data.images, data.labels, 1 / 255)
        return
    folder, count = config.real / "cifar10", config.images or 256
    data = jp.datasets.load(str(folder / "test.npz"))
    for name in config.networks:
        checkpoint, sizes = NETWORKS[name]
        classifier = cifar_classifiers.load(name, folder / checkpoint)
        robust = name == "cifar-resnet4b"
        for first in (0, count) if robust else (0,):
            some = count if robust else count // 8
            rows = slice(first, first + some)
            for size in sizes:
                about = f"{name}, test images {first}–{first + some - 1}"
                yield Case(about, classifier, data.images[rows], data.labels[rows], size)


def attacks(config: Config, epsilon: float) -> dict[str, Attack]:
    """Return what each case is attacked with."""
    small = config.real is None
    steps = config.steps or (5 if small else 100)
    queries = config.queries or (50 if small else 5000)
    return {
        "PGD": PGD(epsilon=epsilon, steps=min(steps, 40)),
        "APGD-CE": APGD(epsilon=epsilon, steps=steps),
        "Square": Square(epsilon=epsilon, queries=max(1, queries // 5)),
        "AutoAttack": AutoAttack(epsilon=epsilon, steps=steps, queries=queries),
    }


def main(config: Config) -> str:
    """Attack every case with every attack; return the table, in Markdown."""
    names = list(attacks(config, 0.1))
    lines = [
        f"| robust accuracy, % | ε | {' | '.join(names)} | felled by AutoAttack's parts |",
        "|---" * (len(names) + 3) + "|",
    ]
    for case in cases(config):
        cells, tallies = [], {}
        for name, attack in attacks(config, case.epsilon).items():
            began = time.perf_counter()
            found = verdict(
                attack, case.classifier, case.images, case.labels, jax.random.key(config.seed), devices="all"
            )
            cells.append(f"{found.robust_accuracy:.1%}".rstrip("%"))
            tallies = found.tallies or tallies
            print(
                f"{case.name}, {case.epsilon * 255:.3g}/255, {name}: {cells[-1]} ({time.perf_counter() - began:.0f} s)"
            )
        parts = ", ".join(f"{name} {count}" for name, count in tallies.items())
        lines.append(f"| {case.name} | {case.epsilon * 255:.3g}/255 | {' | '.join(cells)} | {parts} |")
    table = "\n".join(lines)
    print(table)
    if config.output is not None:
        config.output.write_text(table + "\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    import tyro

    start()
    main(tyro.cli(Config))
