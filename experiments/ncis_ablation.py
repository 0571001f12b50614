"""Settles what NCIS's network is trained to give back, and NCIS's sigma, smoothing passes and NCIS passes.

    python experiments/ncis_ablation.py                               # embedded photographs, tiny: some minutes
    python experiments/ncis_ablation.py --real DATA --output out/     # CIFAR-10 and ImageNet photographs: about 2 hours

DATA is a folder with cifar10/{train,test}.npz and cifar10/resnet{20,56}.th, imagenet/images/*.png, imagenet/images.csv
and imagenet/resnet18.safetensors.

Three readings of the paper are trained, on one half of the photographs each: the network sees GS(x + n) and is compared
with x, or with its own input; or it sees x + n and is compared with GS(x + n). Attacks are PGD with its full budget
against the bare classifier (the attacker does not know the purifier). Parameters are selected on training images (of
CIFAR-10, or of the half of the photographs that the network was trained on), by the mean of clean accuracy and the two
robust ones, of NCIS among those no worse on clean images than the selected Gaussian smoothing. Scores are of other
images: CIFAR-10's test images, and the other half of the photographs.

Expected: docs/ncis.md has the tables. The same command goes on where it was stopped.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cifar_classifiers
import imagenet_photographs
import jax
import jax.numpy as jnp
import numpy as np

import jaxpurify as jp
from jaxpurify import training
from jaxpurify.attacks import PGD, run
from jaxpurify.files import write_json, write_whole
from jaxpurify.metrics import wilson

READINGS = {
    "GS(x) → x": {"input": "smoothed", "target": "original"},
    "GS(x) → GS(x)": {"input": "smoothed", "target": "smoothed"},
    "x → GS(x)": {"input": "original", "target": "smoothed"},
}
# Sigma and passes of the Gaussian.
SMALL_STRENGTHS = ((0.5, 1), (0.5, 1.5), (0.5, 2), (0.5, 3), (0.5, 4), (0.5, 6), (1.0, 2))
LARGE_STRENGTHS = ((0.5, 4), (1.0, 2), (1.0, 3), (1.0, 4))
SHIPPED = "shipped, GS(x) → x"
LONGER = "GS(x) → x, longer"  # the better reading, with more training: of photographs, where what is shipped would leak
KINDS = ("clean", "4/255", "8/255")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained and attacked; None takes the figure that fits the data."""

    real: Path | None = None
    folder: Path = Path("runs/ncis-ablation")
    output: Path | None = None
    data: tuple[str, ...] = ("cifar10-resnet20", "cifar10-resnet56", "imagenet-resnet18")
    steps: int | None = None  # of training: 500, or 60
    longer_steps: int = 1000  # of twice as many patches, for photographs
    width: int | None = None  # of the network: 32, or 8
    attack_steps: int | None = None  # of PGD: 20, or 5
    images: int | None = None  # scored, and as many to select on: 256 of CIFAR-10 (128 with ResNet-56), 32 patches
    photographs: int = 32  # of each half
    passes: tuple[int, ...] = (1, 2, 3)
    photograph_passes: tuple[int, ...] = (1,)
    train_only: bool = False
    folds: tuple[int, ...] = (0, 1)  # of the photographs; the table needs both
    seed: int = 0

    def figure(self, name: str, real: int, small: int) -> int:
        """Return a count, or the one that fits the data."""
        value = getattr(self, name)
        return value if value is not None else (small if self.real is None else real)


def train(config: Config, reading: str, fold: int) -> Any:
    """Train one network on one half of the photographs, or take the one that was."""
    task = training.BlindSpot(
        width=config.figure("width", 32, 8),
        patch=48,
        reductions=(1, 2, 4),
        **READINGS[reading.removesuffix(", longer")],
    )
    longer = reading == LONGER
    size = 16 if longer else 8
    recipe = training.Recipe(batch_size=size, accumulate=size, learning_rate=2e-3, average=0.99, held_out=0.05)
    if config.real is None:
        photographs: Any = "photos"
    else:
        files = imagenet_photographs.files(config.real / "imagenet")[fold::2]
        photographs = [jp.images.read(file) for file in files]
    trained = training.fit(
        task,
        photographs,
        steps=config.longer_steps if longer else config.figure("steps", 500, 60),
        run=config.folder / "networks" / f"{[*READINGS, LONGER].index(reading)}-{fold}",
        key=jax.random.key(config.seed),
        recipe=recipe,
    )
    return trained.function


def classifier_of(config: Config, name: str) -> Any:
    """Load a classifier."""
    if config.real is None:
        return jp.networks.load_classifier("photos-cnn")
    if name.startswith("imagenet"):
        return jp.networks.load_classifier(name, weights=config.real / "imagenet" / "resnet18.safetensors")
    depth = name.removeprefix("cifar10-")
    return cifar_classifiers.load(f"cifar-{depth}", config.real / "cifar10" / f"{depth}.th")


def images_of(config: Config, name: str, fold: int) -> dict[str, jp.datasets.Dataset]:
    """Load the images to select on and those to score."""
    count = config.figure("images", 128 if name.endswith("56") else 256, 32)
    if config.real is None:
        return {split: jp.datasets.load("photos", split=split, limit=count) for split in ("train", "test")}
    if name.startswith("imagenet"):
        folder = config.real / "imagenet"
        halves = {"train": slice(fold, None, 2), "test": slice(1 - fold, None, 2)}
        return {
            split: imagenet_photographs.load(folder, rows=rows, limit=config.photographs)
            for split, rows in halves.items()
        }
    return {
        split: jp.datasets.load(str(config.real / "cifar10" / f"{split}.npz"), limit=count)
        for split in ("train", "test")
    }


def attacked(config: Config, classifier: Any, data: jp.datasets.Dataset, name: str) -> dict[str, np.ndarray]:
    """Return clean images and those of blind attacks, computed once."""
    found = {"clean": data.images}
    for kind, levels in (("4/255", 4), ("8/255", 8)):
        path = config.folder / "attacked" / f"{name}-{data.fingerprint()[:8]}-{levels}.npy"
        if not path.is_file():
            attack = PGD(epsilon=levels / 255, steps=config.figure("attack_steps", 20, 5))
            batch = 128 if data.images.shape[1] < 64 else 16
            result = run(attack, classifier, data.images, data.labels, jax.random.key(config.seed), batch_size=batch)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file, images=result.images: np.save(file, images))
            print(f"{name} at {kind}: {np.mean(result.success):.1%} fooled", flush=True)
        found[kind] = np.load(path)
    return found


@jax.jit
def _predict(model, images):
    return model(images).argmax(axis=1)


def right(model: Any, images: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return which images a model gets right, of each kind."""
    size = 128 if images["clean"].shape[1] < 64 else 16
    return {
        kind: np.concatenate(
            [np.asarray(_predict(model, jnp.asarray(some[at : at + size]))) for at in range(0, len(some), size)]
        )
        == labels
        for kind, some in images.items()
    }


def candidates(config: Config, name: str, networks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is tried, family by family."""
    large = name.startswith("imagenet")
    passes, strengths = (config.photograph_passes, LARGE_STRENGTHS) if large else (config.passes, SMALL_STRENGTHS)
    families: dict[str, dict[str, Any]] = {
        "none": {"identity": jp.purifiers.Identity()},
        "GS": {f"σ {s:g} × {k}": jp.purifiers.GaussianSmoothing(sigma=s, iterations=k) for s, k in strengths},
    }
    for reading, network in networks.items():
        families[f"BSN, {reading}"] = {"network": jp.purifiers.BlindSpot(network=network)}
        families[f"NCIS, {reading}"] = {
            f"σ {s:g} × {k}, {n} passes": jp.purifiers.NCIS(network=network, sigma=s, iterations=k, passes=n)
            for n in passes
            for s, k in (strengths[:2] if n > 1 and large else strengths)
        }
    return families


def select(tried: dict[str, dict[str, dict[str, float]]]) -> dict[str, str]:
    """Choose each family's parameters by what they reach on the images to select on."""

    def merit(shares: dict[str, float]) -> float:
        return float(np.mean([shares[kind] for kind in KINDS]))

    chosen = {}
    for family, shares in tried.items():
        allowed = shares
        if family.startswith("NCIS"):
            floor = tried["GS"][chosen["GS"]]["clean"]
            allowed = {text: each for text, each in shares.items() if each["clean"] >= floor} or shares
        chosen[family] = max(allowed, key=lambda text, allowed=allowed: merit(allowed[text]))
    return chosen


def study(config: Config, name: str, fold: int) -> dict[str, Any]:
    """Select on one half and score on the other, for one classifier."""
    path = config.folder / "results" / f"{name}-{fold}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    classifier, data = classifier_of(config, name), images_of(config, name, fold)
    images = {split: attacked(config, classifier, data[split], name) for split in data}
    networks = {reading: train(config, reading, fold) for reading in READINGS}
    if name.startswith("imagenet"):
        networks[LONGER] = train(config, LONGER, fold)
    elif config.real is not None:
        networks[SHIPPED] = jp.networks.load_network("blind-spot")
    families = candidates(config, name, networks)
    tried: dict[str, Any] = {}
    for family, members in families.items():
        tried[family] = {}
        for text, purifier in members.items():
            model = jp.Defended(classifier, purifier)
            found = right(model, images["train"], data["train"].labels)
            tried[family][text] = {kind: float(each.mean()) for kind, each in found.items()}
            shown = ", ".join(f"{kind} {share:.1%}" for kind, share in tried[family][text].items())
            print(f"{name}-{fold} {family:22} {text:22} {shown}", flush=True)
    chosen = select(tried)
    scored = {
        family: {
            kind: each.tolist()
            for kind, each in right(
                jp.Defended(classifier, families[family][text]), images["test"], data["test"].labels
            ).items()
        }
        for family, text in chosen.items()
    }
    result = {"tried": tried, "chosen": chosen, "scored": scored}
    write_json(path, result)
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Write the scores as Markdown, the folds of one data set together."""
    lines = []
    for name, folds in results.items():
        count = sum(len(fold["scored"]["none"]["clean"]) for fold in folds)
        lines += [
            f"**{name}**, {count} images",
            "",
            "| purifier | selected | clean | 4/255 | 8/255 |",
            "|---|---|---:|---:|---:|",
        ]
        for family in folds[0]["chosen"]:
            selected = "; ".join(dict.fromkeys(fold["chosen"][family] for fold in folds))
            cells = []
            for kind in KINDS:
                hits = np.concatenate([fold["scored"][family][kind] for fold in folds])
                interval = wilson(float(hits.mean()), len(hits))
                cells.append(f"{interval[0]:.1%} [{interval[1]:.1%}, {interval[2]:.1%}]")
            lines.append(f"| {family} | {selected} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def figure(results: dict[str, list[dict[str, Any]]]) -> Any:
    """Draw robust accuracy at 8/255 against clean accuracy of everything tried, on the images to select on."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.6 * len(results), 4.2), facecolor="white", layout="constrained")
    for axes, (name, folds) in zip(np.atleast_1d(drawing.subplots(1, len(results))), results.items(), strict=True):
        for family, members in folds[0]["tried"].items():
            points = [(100 * each["clean"], 100 * each["8/255"]) for each in members.values()]
            line = {"ls": "-", "lw": 1} if family == "GS" else {"ls": ""}
            axes.plot(*zip(*points, strict=True), marker="s" if family.startswith("BSN") else "o", label=family, **line)
        axes.set(xlabel="clean accuracy (%)", ylabel="accuracy on blind PGD at 8/255 (%)", title=name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    return drawing


def main(config: Config) -> None:
    """Trains, selects, scores, and writes table and figure."""
    names = config.data if config.real is not None else ("photos",)
    folds = (0,) if config.real is None else config.folds
    if config.train_only:
        for fold in folds:
            for reading in (*READINGS, *((LONGER,) if config.real is not None else ())):
                train(config, reading, fold)
        return
    results = {name: [study(config, name, fold) for fold in (folds if "imagenet" in name else (0,))] for name in names}
    text = table(results)
    print(text)
    folder = config.output or config.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    figure(results).savefig(folder / "ncis-ablation.png", dpi=150)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
