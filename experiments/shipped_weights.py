"""Trains the networks whose weights are shipped, measures them, and writes weights and cards.

    python experiments/shipped_weights.py --network sesr-x2 --photographs FOLDER --benchmarks SETS \
        --output jaxpurify/networks/shipped

FOLDER holds photographs that weights may be derived from: the 300 of the NIPS 2017 development set (CC-BY 2.0) made
what is shipped. SETS holds the test sets of super-resolution, Set5/image_SRF_2/img_001_SRF_2_{HR,LR}.png and so on,
on which nothing is trained; without it, the card has no figures. A run that was killed goes on with the same command,
and one that is finished is measured again.

Nothing is selected while it trains: the number of steps is fixed and the last average of the weights is taken. On one
core of two: 65 minutes for edsr-baseline-x2, 14 for sesr-x2, and 19 for blind-spot, whose second stage goes on with
flat patches. What is shipped for super-resolution was trained with zeros beyond the border, and is used without.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxpurify import images, training
from jaxpurify.environment import environment
from jaxpurify.metrics import luma_psnr, psnr
from jaxpurify.networks import load_network, weights
from jaxpurify.training.task import Batch, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement(Task):
    """Goes on from weights, with patches of one colour among those of photographs: flat areas are rare in those."""

    start: str = dataclasses.field(default="", repr=False)
    flat: float = 0.125

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network, with the weights of the file."""
        module = super().network(rngs)
        weights.load(module, weights.read(self.start))
        return module

    def batch(self, source: Any, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut patches, and make some of them one colour: any colour, any grey, and black or white."""
        colours = random.integers(0, 256, (len(rows), 1, 1, 3), np.uint8)
        colours[1::2] = colours[1::2, ..., :1]
        colours[3::4] = 255 * (colours[3::4] // 128)
        flat = random.random((len(rows), 1, 1, 1)) < self.flat
        return {name: np.where(flat, colours, cut) for name, cut in super().batch(source, rows, random).items()}

    def scored_batch(self, source: Any, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut patches of photographs alone."""
        return super().batch(source, rows, random)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinedBlindSpot(Refinement, training.BlindSpot):
    """The second stage of a blind-spot network."""


Stage = tuple[Task, int, training.Recipe]
RECIPES: dict[str, tuple[Stage, ...]] = {
    "edsr-baseline-x2": (
        (
            training.SuperResolution(network_name="edsr-baseline", patch=24, reductions=(1, 2), border="zeros"),
            4_000,
            training.Recipe(batch_size=16, learning_rate=5e-4, warmup=0.05, held_out=0.02, log_every=10),
        ),
    ),
    "sesr-x2": (
        (
            training.SuperResolution(network_name="sesr", patch=32, reductions=(1, 2), border="zeros"),
            8_000,
            training.Recipe(batch_size=16, learning_rate=1e-3, warmup=0.02, held_out=0.02),
        ),
    ),
    "blind-spot": (
        (
            training.BlindSpot(width=32, patch=48, reductions=(1, 2, 4)),
            2_500,
            training.Recipe(
                batch_size=16, accumulate=16, learning_rate=2e-3, warmup=0.02, held_out=0.02, average=0.995
            ),
        ),
        (
            RefinedBlindSpot(width=32, patch=48, reductions=(1, 2, 4), flat=0.25),
            150,
            training.Recipe(batch_size=16, accumulate=16, learning_rate=5e-4, warmup=0.1, held_out=0.02, average=0.97),
        ),
    ),
}
BORDERS = {"edsr-baseline-x2": "edge", "sesr-x2": "edge"}  # with which networks are used that were trained with another
SHAVE = 2  # pixels of the border that luma PSNR leaves out, at ×2
LEVELS = (15, 25, 50)  # standard deviations of noise, of 255
SETS = ("Set5", "Set14", "BSD100")
Figures = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and on what."""

    network: Literal["edsr-baseline-x2", "sesr-x2", "blind-spot"]
    photographs: Path
    run: Path
    output: Path | None = None
    benchmarks: Path | None = None
    seed: int = 0


def pairs(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the low- and high-resolution images of one test set.

    Args:
        folder: of the test set.

    Yields:
        ``uint8`` of shape (height, width, 3) and (2 height, 2 width, 3).
    """
    for high in sorted((folder / "image_SRF_2").glob("*_HR.png")):
        low = high.with_name(high.name.replace("_HR", "_LR"))
        yield tuple(np.broadcast_to(read, (*read.shape[:2], 3)) for read in map(images.read, (low, high)))


def super_resolution_figures(network: Any, sets: Path) -> Figures:
    """Measure luma PSNR on the test sets, beside bicubic interpolation.

    Args:
        network: images to images twice as large.
        sets: the folder of the test sets.

    Returns:
        Figures by what they are of.
    """
    run = jax.jit(lambda network, low: network(low))
    found = {}
    for name in SETS:
        ours, bicubic = [], []
        for low, high in pairs(sets / name):
            small, reference = (jnp.asarray(each, jnp.float32)[None] / 255 for each in (low, high))
            height, width = reference.shape[1:3]
            enlarged = images.resize(small, height=height, width=width)
            for values, result in ((ours, run(network, small)), (bicubic, enlarged)):
                rounded = jnp.round(jnp.clip(result, 0, 1) * 255) / 255
                values.append(float(luma_psnr(rounded, reference, shave=SHAVE)[0]))
        found[f"{name} ({len(ours)} images), luma PSNR"] = f"{np.mean(ours):.2f} dB (bicubic {np.mean(bicubic):.2f} dB)"
    return found


def denoising_figures(network: Any, sets: Path, *, seed: int = 0) -> Figures:
    """Measure how much noise of known strength the network removes.

    Args:
        network: images to images.
        sets: the folder of the test sets.
        seed: of the noise, which is not clipped.

    Returns:
        Figures by what they are of.
    """
    run = jax.jit(lambda network, noisy: jnp.clip(network(noisy), 0, 1))
    found = {}
    for level in LEVELS:
        gains, after = [], []
        for number, (_, high) in enumerate(pairs(sets / "BSD100")):
            clean = jnp.asarray(high, jnp.float32)[None] / 255
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), level), number)
            noisy = clean + level / 255 * jax.random.normal(key, clean.shape)
            after.append(float(psnr(run(network, noisy), clean)[0]))
            gains.append(after[-1] - float(psnr(noisy, clean)[0]))
        what = f"BSD100 ({len(gains)} images), Gaussian noise of {level}/255, seed {seed}"
        found[what] = f"{np.mean(after):.2f} dB, a gain of {np.mean(gains):.2f} dB"
    return found


MEASURES: dict[str, Callable[[Any, Path], Figures]] = {
    "edsr-baseline-x2": super_resolution_figures,
    "sesr-x2": super_resolution_figures,
    "blind-spot": denoising_figures,
}

BORDER = """\
**Border.** Trained with zeros beyond the border, used with the nearest pixel, which the file's metadata say (`border`):
the tensors are what training left, and one colour stays one colour up to the border."""
REMARKS = {
    "edsr-baseline-x2": BORDER,
    "sesr-x2": BORDER,
    "blind-spot": "**Second stage.** Added because white came out 1.15 levels off after the first; it was run once.",
}

CARD = """\
# {name}

Weights of `jaxpurify.networks.{architecture}`, {parameters:,} parameters, {macs:,} multiply-adds a pixel of the input.
Written by `experiments/shipped_weights.py`; SHA-256 of `{file}`:
`{digest}`.

**Command.** `python experiments/shipped_weights.py --network {name} --photographs FOLDER --run RUN --seed {seed}
--benchmarks SETS --output jaxpurify/networks/shipped`

**Recipe.** {stages}. Nothing was selected: the number of steps was fixed, and these are
the last averaged weights. Trained on {where}.

**Data.** The 300 photographs of the development set of the NIPS 2017 competition on adversarial attacks and defences,
299×299 pixels each, all published by their photographers under CC-BY 2.0; the set's own table names the author and the
origin of each. 2 % of the pictures and reductions were held out to watch the training. These weights have seen all of
the photographs: figures on them come from networks trained on the other half.

{remark}

**Licence of the weights.** Apache-2.0, like the package.

| images, none of them trained on | figure |
|---|---|
{figures}
"""


def card(config: Config, network: Any, module: Any, figures: Figures, content: bytes) -> str:
    """Write the card of the weights.

    Args:
        config: what was trained.
        network: the network.
        module: its module.
        figures: what was measured.
        content: the weight file.

    Returns:
        Markdown.
    """
    return CARD.format(
        name=config.network,
        architecture=type(module).__name__,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(network)),
        macs=module.macs_per_pixel,
        file=f"{config.network}.safetensors",
        digest=hashlib.sha256(content).hexdigest(),
        seed=config.seed,
        stages="; then ".join(
            f"`{task}`, {steps:,} steps of `{recipe}`" for task, steps, recipe in RECIPES[config.network]
        ),
        where=environment()["device"],
        remark=REMARKS[config.network],
        figures="\n".join(f"| {what} | {figure} |" for what, figure in figures.items()) or "| none measured | |",
    )


def main(config: Config) -> None:
    """Trains one network, measures it, and writes weights and card.

    Args:
        config: which, and on what.
    """
    key, start = jax.random.key(config.seed), None
    for number, (task, steps, recipe) in enumerate(RECIPES[config.network], 1):
        if isinstance(task, Refinement):
            task = dataclasses.replace(task, start=str(start))
        run = config.run if number == 1 else config.run.with_name(f"{config.run.name}-stage-{number}")
        trained = training.fit(task, config.photographs, steps=steps, run=run, key=key, recipe=recipe)
        start = run / "weights.safetensors"
    folder = config.output or config.run
    file = folder / f"{config.network}.safetensors"
    border = {"border": BORDERS[config.network]} if config.network in BORDERS else {}
    weights.save(trained.module, file, metadata={"architecture": config.network} | border)
    network = load_network(config.network, weights=file)
    figures = MEASURES[config.network](network, config.benchmarks) if config.benchmarks else {}
    text = card(config, network, trained.module, figures, file.read_bytes())
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
