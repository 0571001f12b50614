"""The learned purifiers and their controls, against attackers who know more and more.

    python experiments/learned_purifiers.py                                  # photographs, small: some minutes
    python experiments/learned_purifiers.py --real DATA --output table.md    # CIFAR-10 with ResNet-20: half an hour

DATA is a folder with cifar10/test.npz (`images`, `labels`) and the checkpoint cifar10/resnet20.th of
akamaster/pytorch_resnet_cifar10. The shipped networks were trained on other photographs, so no image here was seen by
any of them. Nothing is selected: every purifier has its defaults, which docs/ncis.md settles for NCIS on CIFAR-10's
training images, and the wavelet step the sigma of the paper's code.

Plain bicubic interpolation stands beside every super-resolution, since a larger image alone changes what a classifier
says. Exact gradients pass through the wavelet step, the network and the larger image (`full`), and through every pass
of NCIS. The last column is the per-image worst of all attackers.

Expected on CIFAR-10: docs/super-resolution.md and docs/ncis.md have the table; next to nothing is left under `full`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import cifar_classifiers
import jax

import jaxpurify as jp
from jaxpurify.attacks import PGD
from jaxpurify.cli.start import start
from jaxpurify.evaluation import Evaluation
from jaxpurify.evaluation.table import header, rows, title

PURIFIERS = (
    "none",
    "wavelet",
    "super-resolution:network=bicubic",
    "super-resolution:network=small",
    "super-resolution:network=edsr-baseline",
    "super-resolution:network=bicubic,back=true",
    "super-resolution:network=small,back=true",
    "super-resolution:network=edsr-baseline,back=true",
    "gaussian-smoothing:sigma=0.5,iterations=2",
    "blind-spot",
    "ncis",
    "ncis:passes=3",
)
LADDER = ("noise", "blind", "bpda", "full")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is evaluated, on what, and how hard it is attacked; None takes the figure that fits the data."""

    real: Path | None = None
    folder: Path = Path("runs/learned-purifiers")
    output: Path | None = None
    purifiers: tuple[str, ...] = PURIFIERS
    images: int | None = None  # 64 of CIFAR-10, 16 patches of photographs
    steps: int | None = None  # of PGD: 20, or 3
    noise_draws: int | None = None  # 32, or 4
    epsilon: float = 8 / 255
    seed: int = 0
    batch_size: int = 32

    def figure(self, name: str, real: int, small: int) -> int:
        """Return a count, or the one that fits the data."""
        value = getattr(self, name)
        return value if value is not None else (small if self.real is None else real)


def load(config: Config) -> tuple[Any, Any]:
    """Load the classifier and the test images."""
    count = config.figure("images", 64, 16)
    if config.real is None:
        return jp.networks.load_classifier("photos-cnn"), jp.datasets.load("photos", split="test", limit=count)
    folder = config.real / "cifar10"
    classifier = cifar_classifiers.load("cifar-resnet20", folder / "resnet20.th")
    return classifier, jp.datasets.load(str(folder / "test.npz"), limit=count)


def evaluate(config: Config, classifier: Any, test: Any) -> Evaluation:
    """Climb the ladder."""
    return jp.evaluate(
        classifier,
        {text: jp.purifiers.make(text) for text in config.purifiers},
        test,
        attacks=PGD(epsilon=config.epsilon, steps=config.figure("steps", 20, 3)),
        threat_models=LADDER,
        key=jax.random.key(config.seed),
        run=config.folder,
        batch_size=config.batch_size,
        devices="all",
        noise_draws=config.figure("noise_draws", 32, 4),
    )


def markdown(config: Config, found: Evaluation) -> str:
    """Return the table, with what it took written below."""
    head = header(found)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| `{cells[0]}` | " + " | ".join(cells[1:]) + " |" for cells in rows(found)]
    about = (
        f"{title(found)}. Robust accuracy in percent [95 % interval] under PGD-{config.figure('steps', 20, 3)} at "
        f"{round(255 * config.epsilon)}/255; `noise`: {config.figure('noise_draws', 32, 4)} draws."
    )
    return "\n".join([*lines, "", about, "", *(f"* {flag}" for flag in found.flags)]) + "\n"


def main(config: Config) -> None:
    """Climbs the ladder and prints the table."""
    text = markdown(config, evaluate(config, *load(config)))
    print(text)
    if config.output is not None:
        config.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import tyro

    start()
    main(tyro.cli(Config))
