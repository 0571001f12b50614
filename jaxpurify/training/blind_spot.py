"""Training blind-spot networks: what a pixel is, told from all but itself."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxpurify.networks.blind_spot import BORDERS, BlindSpotNetwork, receptive_field
from jaxpurify.training.patch_task import PatchTask, measured_psnr, precision_of
from jaxpurify.training.task import Batch
from jaxpurify.transforms.gaussian import gaussian_smooth

STEP = 0.5  # standard deviation of one pass of Gaussian smoothing, in pixels: passes make up every strength
INPUTS = TARGETS = ("smoothed", "original")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindSpot(PatchTask):
    """Learn to reconstruct each pixel of a smoothed image from its surroundings.

    The input is ``GS(x + n)``: a photograph x with noise n, Gaussian-smoothed by a strength drawn anew for every patch.
    What the output is compared with is the ``target``; both readings of the abstract are there, and the one with the
    network before the smoothing.

    Args:
        layers: layers of the network.
        width: channels of the network.
        input: ``"smoothed"``: the network sees GS(x + n). ``"original"``: it sees x + n.
        target: ``"original"``: the photograph x. ``"smoothed"``: GS(x + n), so that nothing clean is needed.
        smoothing: largest standard deviation of the smoothing, in pixels of the patch; it is uniform from 0.
        plain: share of the patches that are not smoothed at all.
        noise: largest standard deviation of the Gaussian noise, in units of 1 (25/255 is about 0.1); uniform from 0.
        clean: share of the patches without noise.
        patch: rows and columns of a patch, at least the network's receptive field.
        reductions: whole factors by which the photographs are shrunk; each makes further pictures.
        border: what the network reads beyond the border: ``"opposite"``, with which one colour stays one colour, or
            ``"zeros"``, as in FBI-Denoiser's code.

    Raises:
        ValueError: if a number is out of its domain.

    Source: Cha et al. 2021 (arXiv 2106.11644), of which only the abstract is stated: the network is trained "to
    reconstruct the discriminative features of the original image that is also smoothed out by GS", on general images.
    The squared error, the range of strengths and the noise are our choice; `docs/ncis.md` has the comparison.
    """

    layers: int = 8
    width: int = 64
    input: Literal["smoothed", "original"] = "smoothed"
    target: Literal["original", "smoothed"] = "original"
    smoothing: float = 2.0
    plain: float = 0.25
    noise: float = 0.2
    clean: float = 0.25
    patch: int = 48
    reductions: tuple[int, ...] = (1, 2)
    border: Literal["opposite", "zeros"] = "opposite"

    metric: ClassVar[str] = "psnr"
    greater_is_better: ClassVar[bool] = True
    loops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, known in (("input", INPUTS), ("target", TARGETS), ("border", BORDERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("layers", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("smoothing", "noise"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        if self.noise > 1:
            raise ValueError(f"noise is in units of 1, expected at most 1, got {self.noise}: divide by 255")
        for name in ("plain", "clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        seen = receptive_field(self.layers)
        if self.patch < seen:
            raise ValueError(
                f"patch must be at least the receptive field of {self.layers} layers, {seen} pixels, got {self.patch}: "
                f"choose fewer layers, or a larger patch"
            )

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network."""
        return BlindSpotNetwork(3, width=self.width, layers=self.layers, border=self.border, rngs=rngs)

    def loss(self, network: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Compare the network's output with the target."""
        seen, wanted, original = self._examples(batch, key, network)
        output = network(seen).astype(jnp.float32)
        error = jnp.square(output - wanted).mean(axis=(1, 2, 3))
        return error, {"psnr": measured_psnr(output, original)}

    def panels(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Show what the network sees, what it makes of it and the photograph."""
        seen, _, original = self._examples(batch, key, network)
        return {"input": seen, "network": network(seen), "photograph": original}

    def _examples(self, batch: Batch, key: Array, network: Any) -> tuple[Array, Array, Array]:
        """Return what the network sees, what it is compared with, and the photograph."""
        original = batch["images"].astype(jnp.float32) / 255
        strength, noise = jax.random.split(key)
        noisy = original + self._noise(noise, original)
        smoothed = self._smoothed(strength, noisy)
        seen = smoothed if self.input == "smoothed" else noisy
        wanted = smoothed if self.target == "smoothed" else original
        return seen.astype(precision_of(network)), wanted, original

    def _noise(self, key: Array, images: Array) -> Array:
        levels, which, values = jax.random.split(key, 3)
        level = self.noise * jax.random.uniform(levels, (len(images), 1, 1, 1))
        level = level * jax.random.bernoulli(which, 1 - self.clean, level.shape).astype(jnp.float32)
        return level * jax.random.normal(values, images.shape)

    def _smoothed(self, key: Array, images: Array) -> Array:
        deviations, which = jax.random.split(key)
        deviation = self.smoothing * jax.random.uniform(deviations, (len(images),))
        deviation = deviation * jax.random.bernoulli(which, 1 - self.plain, deviation.shape).astype(jnp.float32)
        # Whole passes: a broken number of them amplifies the rounding errors of what a whole one removes.
        passes = jnp.round(jnp.square(deviation / STEP))
        return jax.vmap(lambda image, count: gaussian_smooth(image[None], sigma=STEP, iterations=count)[0])(
            images, passes
        )
