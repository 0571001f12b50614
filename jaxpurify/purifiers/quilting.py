"""Image quilting: the image put together anew from small patches of clean photographs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxpurify import images as _images
from jaxpurify.files import expanded
from jaxpurify.images import LUMA
from jaxpurify.models import purifier
from jaxpurify.purifiers.identity import Identity
from jaxpurify.pytrees import concrete, static
from jaxpurify.transforms.resampling import whole_number

# Distances computed at once, of one image: 64 MiB of them.
DISTANCES = 2**24
GROUP = 16


@purifier
class Quilting:
    """Replace an image by a quilt of similar patches of clean photographs, cut where neighbours differ least.

    Every patch of a grid is exchanged for one of its nearest patches in a database, picked at random. Where two
    overlap, they meet along the line of least squared difference. Which patch is nearest is piecewise constant, so the
    exact gradient is zero everywhere; ``surrogate()`` is the identity.

    Args:
        patches: the database, shape ``(count, size, size, 3)`` in [0, 1]; by default it is read from ``source`` when
            the purifier is constructed. It is a leaf: another one does not compile anew.
        source: where patches are read from: ``"photos"`` (the embedded photographs, training split) or a folder of
            images (static).
        count: number of patches to read (static).
        size: side of a patch in pixels (static).
        overlap: pixels by which neighbours overlap, at most half of ``size`` (static).
        neighbours: nearest patches among which one is picked; 1 makes it deterministic (static).

    Returns:
        When called: images of the same shape and dtype in [0, 1], of 1 or 3 channels (grey images are quilted from the
        patches' luma).

    Raises:
        ValueError: if a number is out of its domain, or the source holds no image, or one that is too small.

    Source: Guo, Rana, Cissé and van der Maaten 2018 (arXiv 1711.00117), section 4: patches of 5×5, one of 10 nearest
    out of a million. Cuts: Efros and Freeman, "Image quilting for texture synthesis and transfer", SIGGRAPH 2001,
    section 2.1. The overlap, the size of the database and the order, patches to rows and rows to the image, are our
    choice: every cut is then independent of all others of its direction.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> import jaxpurify as jp
        >>> patches = np.linspace(0, 1, 16, dtype=np.float32)[:, None, None, None] * np.ones((1, 5, 5, 3), np.float32)
        >>> quilt = jp.purifiers.Quilting(patches=patches, neighbours=1)(jnp.full((1, 9, 8, 3), 0.42))
        >>> round(float(quilt.mean()), 3)
        0.4
    """

    patches: Any = None
    source: str = static("photos")
    count: int = static(4096)
    size: int = static(5)
    overlap: int = static(2)
    neighbours: int = static(10)

    def check(self):
        """Refuse numbers out of their domains, and read the patches where none are given."""
        for name in ("count", "size", "neighbours"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {getattr(self, name)}")
        if not isinstance(self.overlap, int) or not 0 <= 2 * self.overlap <= self.size:
            raise ValueError(f"overlap must be an integer from 0 to half of size ({self.size}), got {self.overlap}")
        if self.patches is None:
            object.__setattr__(self, "patches", read_patches(self.source, count=self.count, size=self.size))
        shape = jnp.shape(self.patches)
        if len(shape) != 4 or shape[1:] != (self.size, self.size, 3):
            raise ValueError(f"patches must have shape (count, {self.size}, {self.size}, 3), got {shape}")
        if concrete(self.patches):
            _images.check_values(self.patches, name="patches")
        if shape[0] < self.neighbours:
            raise ValueError(f"neighbours must be at most the number of patches ({shape[0]}), got {self.neighbours}")

    @property
    def random(self) -> bool:
        return self.neighbours > 1

    def __call__(self, images, key=None):
        patches = jnp.asarray(self.patches, images.dtype)
        if images.shape[3] == 1:
            patches = jnp.sum(patches * jnp.asarray(LUMA, images.dtype).reshape(1, 1, 1, 3), axis=3, keepdims=True)
        else:
            _images.check_colour(images)
        return _images.saturate(_quilt(images, key, patches, overlap=self.overlap, neighbours=self.neighbours))

    def surrogate(self):
        """Return the identity."""
        return Identity()


def read_patches(source: str, *, count: int, size: int) -> Float[np.ndarray, "count size size 3"]:
    """Cut patches out of photographs at places that are always the same.

    Args:
        source: ``"photos"`` for the training split of the embedded photographs, or a folder of images, searched with
            all that is in it.
        count: number of patches.
        size: their side in pixels.

    Returns:
        float32 in [0, 1].

    Raises:
        ValueError: if there is no image, or one is too small.
    """
    from jaxpurify import datasets
    from jaxpurify.listing import list_images

    random, patches = np.random.default_rng(0), np.empty((count, size, size, 3), np.float32)
    if source == "photos":
        pictures: list[Any] = list(datasets.load("photos", split="train").images)
    else:
        folder = expanded(source)
        pictures = list(list_images(folder).images)
        if not pictures:
            raise ValueError(f"source must be photos or a folder of images, got {source!r}, which holds none")
    order, first = random.permutation(len(pictures))[:count], 0
    for done, number in enumerate(order):
        share = (count - first) // (len(order) - done)
        image = pictures[number] if isinstance(pictures[number], np.ndarray) else _read(pictures[number])
        height, width = image.shape[:2]
        if min(height, width) < size:
            raise ValueError(f"source must hold images of at least {size}×{size} pixels, got one of {height}×{width}")
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(0, 1))
        rows, columns = (random.integers(side - size + 1, size=share) for side in (height, width))
        patches[first : first + share] = windows[rows, columns].transpose(0, 2, 3, 1)
        first += share
    return patches


def _read(path):
    values = _images.deep_as_float(_images.read(path))[..., :3]
    values = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values
    return values if values.shape[2] == 3 else np.repeat(values[..., :1], 3, axis=2)


def minimum_cut(errors: Float[Array, "*batch length overlap"]) -> Int[Array, "*batch length"]:
    """Find the line through an overlap along which the errors sum up to the least, by dynamic programming.

    Args:
        errors: squared differences of two overlapping patches: along the overlap, and across it.

    Returns:
        Where the line crosses at each place along the overlap; it moves by at most one from place to place.

    Source: Efros and Freeman, "Image quilting for texture synthesis and transfer", SIGGRAPH 2001, section 2.1.
    """
    across = errors.shape[-1]
    away = jnp.abs(np.arange(across)[:, None] - np.arange(across)[None, :]) > 1
    far = jnp.where(away, jnp.asarray(jnp.inf, errors.dtype), 0)

    def forward(least, error):
        # From each place (last axis) to each place (last but one).
        origins = least[..., None, :] + far.reshape((1,) * (least.ndim - 1) + far.shape)
        return error + origins.min(axis=-1), origins.argmin(axis=-1)

    along = jnp.moveaxis(errors, -2, 0)
    least, origins = jax.lax.scan(forward, along[0], along[1:])
    end = least.argmin(axis=-1)

    def backward(place, origin):
        previous = jnp.take_along_axis(origin, place[..., None], axis=-1)[..., 0]
        return previous, place

    start, places = jax.lax.scan(backward, end, origins, reverse=True)
    return jnp.moveaxis(jnp.concatenate([start[None], places]), 0, -1)


@functools.partial(jax.jit, static_argnames=("overlap", "neighbours"))
def _quilt(images, keys, patches, *, overlap, neighbours):
    height, width, channels = images.shape[1:]
    size = patches.shape[1]
    step = size - overlap
    counts = tuple(-(-max(side - size, 0) // step) + 1 for side in (height, width))
    missing = tuple(size + step * (count - 1) - side for count, side in zip(counts, (height, width), strict=True))
    padded = jnp.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    # Centred, so that little is lost where distances are differences of large numbers.
    database = patches.reshape(patches.shape[0], -1) - 0.5
    database = jnp.pad(database, ((0, -len(database) % GROUP), (0, 0)))
    lengths = jnp.where(np.arange(len(database)) < len(patches), (database**2).sum(axis=1), jnp.inf)

    def nearest(patch, draw):
        distances = lengths - 2 * jnp.matmul(database, patch, precision="highest")
        if neighbours == 1:
            return distances.argmin()
        # The nearest are among the groups whose own nearest are: two short searches in the place of a long one.
        grouped = distances.reshape(-1, GROUP)
        groups = _smallest(grouped.min(axis=1), min(neighbours, len(grouped)))
        within = _smallest(grouped[groups].reshape(-1), neighbours)
        indices = (groups[:, None] * GROUP + np.arange(GROUP)[None, :]).reshape(-1)
        return indices[within[whole_number(draw, low=0, high=neighbours)]]

    def one(image, key):
        rows, columns = (step * np.arange(count)[:, None] + np.arange(size)[None, :] for count in counts)
        grid = image[rows[:, None, :, None], columns[None, :, None, :]] - 0.5
        queries = grid.reshape(counts[0] * counts[1], -1)
        draws = jnp.zeros(len(queries)) if key is None else jax.random.uniform(key, (len(queries),), jnp.float32)
        chunk = min(len(queries), max(1, DISTANCES // len(database)))
        chosen = jax.lax.map(lambda query: nearest(*query), (queries, draws), batch_size=chunk)
        found = patches[chosen].reshape(*counts, size, size, channels)
        strips = _joined(found.transpose(0, 1, 3, 2, 4), overlap).transpose(0, 2, 1, 3)
        return _joined(strips, overlap)[:height, :width]

    # Image by image, so that the rounding of a distance, and with it the choice, never depends on the batch.
    if keys is None:
        return jax.lax.map(lambda image: one(image, None), padded)
    return jax.lax.map(lambda pair: one(*pair), (padded, keys))


def _smallest(values, count):
    """Return the places of the smallest values, in order; much faster than sorting on a CPU."""

    def one(left, _):
        place = left.argmin()
        return jnp.where(np.arange(len(values)) == place, jnp.inf, left), place

    return jax.lax.scan(one, values, None, length=count)[1]


def _joined(pieces, overlap):
    """Join pieces ``(..., piece, across, along, channel)`` into one ``(..., across, along, channel)``, by cuts.

    Since overlaps are at most half of a piece, no pixel lies in two of them, and all cuts are found at once.
    """
    *_, count, size, along, channels = pieces.shape
    step = size - overlap
    if overlap and count > 1:
        ahead, behind = pieces[..., :-1, step:, :, :], pieces[..., 1:, :overlap, :, :]
        errors = ((ahead - behind) ** 2).sum(axis=-1)
        cuts = minimum_cut(jnp.swapaxes(errors, -1, -2))
        places = np.arange(overlap).reshape((1,) * (cuts.ndim - 1) + (overlap, 1))
        mixed = jnp.where((places < cuts[..., None, :])[..., None], ahead, behind)
        pieces = pieces.at[..., 1:, :overlap, :, :].set(mixed)
    whole = pieces[..., :step, :, :].reshape(*pieces.shape[:-4], count * step, along, channels)
    return jnp.concatenate([whole, pieces[..., -1, step:, :, :]], axis=-3)
