"""Training a differentiable stand-in for any purifier, to attack it through (BPDA)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxpurify.classifiers import Function, of_nnx
from jaxpurify.images import as_jax, resize
from jaxpurify.models import as_purifier, attribute
from jaxpurify.networks.imitation import ImitationNetwork
from jaxpurify.training.patch_task import PatchTask, measured_psnr, precision_of
from jaxpurify.training.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate(PatchTask):
    """Learn to do what a purifier does: the mean squared error between the network's image and the purified one.

    Both see patches of photographs with a perturbation within the attacker's ball. A random purifier draws anew for
    every patch at every step, so that the network learns its mean. The network sees ``receptive_field`` pixels around
    each one and not where the pixel is: it can imitate what is local, and no flip, turn or shift beyond that.

    ``gradients.substitute(purifier, surrogate=trained.function)`` computes the purifier forward and the network
    backward.

    Args:
        of: the purifier, or any callable ``(images, key=None) -> images`` with three channels. Where it changes the
            size, the network works on the image resized to that of its output.
        width: channels of the network.
        blocks: residual blocks of the network.
        epsilon: largest perturbation of a pixel, in units of 1; uniform within it, and clipped to [0, 1]. Wider than an
            attacker's ball: photographs are smooth, and the perturbation alone shows how fine detail changes.
        patch: rows and columns of a patch; for a purifier with a fixed size of its output, those of the images that
            are attacked.
        reductions: whole factors by which the photographs are shrunk; each makes further pictures.

    Raises:
        TypeError: if ``of`` is no purifier.
        ValueError: if a number is out of its domain, or the purifier changes the number of channels.

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420), section 4.1.2, put any differentiable approximation in
    the place of a purifier going backward. One that is learned, its network and what it is trained on are our choice.
    """

    of: Any
    width: int = 32
    blocks: int = 4
    epsilon: float = 0.1
    patch: int = 32
    reductions: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if not callable(self.of) or isinstance(self.of, type) or attribute(self.of, "is_ensemble"):
            raise TypeError(
                f"of must be a purifier, images to images, got {getattr(self.of, '__name__', type(self.of).__name__)}"
                + (": take the purifier within the ensemble" if attribute(self.of, "is_ensemble") else "")
            )
        for name, least in (("width", 1), ("blocks", 1), ("patch", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is in units of 1, expected 0 to 1, got {self.epsilon}: divide by 255")
        shape = _shape(self._target, jax.ShapeDtypeStruct((1, self.patch, self.patch, 3), jnp.float32))
        if shape[3] != 3:
            raise ValueError(f"of must keep the three channels of its images, got images of shape {shape}")

    @property
    def _target(self) -> Any:
        return as_purifier(self.of)

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network."""
        return ImitationNetwork(width=self.width, blocks=self.blocks, rngs=rngs)

    def loss(self, network: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Compare the network's image with the purified one."""
        seen, purified = self._examples(batch, key)
        imitated = self._imitated(network, seen)
        return jnp.square(imitated - purified).mean(axis=(1, 2, 3)), {"psnr": measured_psnr(imitated, purified)}

    def score(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Measure the network, and beside it the image as it came: what the identity in the purifier's place is."""
        losses, measures = self.loss(network, batch, key)
        seen, purified = self._examples(batch, key)
        identity = self._imitated(lambda images: images, seen)
        return {"loss": losses} | measures | {"psnr of the identity": measured_psnr(identity, purified)}

    def panels(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Show what is purified, the purifier's image and the network's."""
        seen, purified = self._examples(batch, key)
        return {"input": seen, "purifier": purified, "network": self._imitated(network, seen)}

    def function(self, network: Any) -> Function:
        """Return the surrogate: resizing where the purifier changes the size, then the network."""
        name = f"surrogate of {getattr(self.of, 'name', type(self.of).__name__)}"
        return Function(variables=(of_nnx(network), self._target), apply=_imitate, name=name)

    def _examples(self, batch: Batch, key: Array) -> tuple[Array, Array]:
        """Return perturbed patches and what the purifier makes of them."""
        images = batch["images"].astype(jnp.float32) / 255
        noise, drawn = jax.random.split(key)
        seen = images + jax.random.uniform(noise, images.shape, minval=-self.epsilon, maxval=self.epsilon)
        seen, of = jnp.clip(seen, 0, 1), self._target
        return seen, of(seen, drawn if attribute(of, "random") else None)

    def _imitated(self, network: Any, images: Array) -> Array:
        """Return the network's image, computed in the precision of its weights."""
        precision = precision_of(network) if isinstance(network, nnx.Module) else images.dtype
        return _imitate((network, self._target), images.astype(precision)).astype(images.dtype)


def _imitate(variables: tuple[Any, Any], images: Any) -> Array:
    """Resize images as a purifier would, and put them through the network that imitates it."""
    (network, of), images = variables, as_jax(images)
    _, height, width, _ = _shape(of, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    if (height, width) != images.shape[1:3]:
        images = resize(images, height=height, width=width, method="bilinear")
    return network(images)


def _shape(of: Any, images: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    key = jax.random.key(0) if attribute(of, "random") else None
    return jax.eval_shape(lambda model, images: model(images, key), of, images).shape
