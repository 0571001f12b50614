"""Purify images as they come: any size, one or many, 8-bit or floating point; the front door of every purifier."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.checks import check_batch_size, kind
from jaxpurify.independence import check_independence
from jaxpurify.models import Sequential, as_purifier, attribute
from jaxpurify.outputs import check_purified
from jaxpurify.probing import quick_compilation
from jaxpurify.purifiers import channels
from jaxpurify.purifiers.super_resolution import SuperResolution
from jaxpurify.purifiers.windows import is_narrow, purify_in_windows, reach_of
from jaxpurify.transforms.resampling import LONG, resample, resampling_band

COLOURS = {1: 1, 2: 1, 3: 3, 4: 3}  # channels, and how many of them are colour: the last of two or four is opacity
PROBED = (32, 256, None)  # pixels to a side of what a purifier is tried on, until it takes them
MOST_CHANNELS = 7  # that anybody is thought to mean by a last axis
PIXELS = 2**22  # in one program at most, so that a folder of large photographs fits the memory
LARGE = 2**20  # pixels beyond which an image is purified window by window where that changes nothing
LIGHT = 1000  # numbers, beyond which a purifier holds a network
RARE = 16  # images of a size below which a size is rare, where a call has several
# How many programs are kept, of the usual ones and of those for rare sizes: a folder of photographs may have a size of
# its own for each of them, and a program takes some ten megabytes.
PROGRAMS, RARE_PROGRAMS = 64, 16
_CLEARED = itertools.count(1)


def purify(purifier: Any, images: Any, *, key: Any = None, batch_size: Any = 64) -> Any:
    """Purify images of any size and kind, and return them as they came.

    Images of equal size go through one compiled program together, in a list too. Opacity, the last of two or four
    channels, is kept as it is: only colour is purified, and what opacity hides does not bleed into what is seen.
    (Where a purifier moves pixels about, as ``RandomCrop`` does, opacity does not move with them.) Grey images go
    through a purifier that takes colour alone as three equal channels, whose mean comes back.

    Args:
        purifier: images to images; a plain function of a batch too.
        images: one image ``(height, width)`` or ``(height, width, channel)``, a batch
            ``(batch, height, width, channel)``, or a list of images of any sizes; ``uint8``, or floating point in
            [0, 1]; 1, 2, 3 or 4 channels.
        key: for a random purifier, one typed key (image i gets it with i folded in) or one an image.
        batch_size: images in one program at most, fewer where they are large. A purifier that couples the images of
            a batch gets all images of a size at once.

    Returns:
        What was given: a list for a list, NumPy for NumPy and JAX for JAX, of the same dtype (``uint8`` is rounded to
        the nearest level). For arrays of other libraries, such as PyTorch's tensors, NumPy's come back. Height and
        width are those that the purifier returns.

    Raises:
        TypeError: on a dtype that is neither ``uint8`` nor floating point, a raw key, an ensemble, or what is no array.
        ValueError: on NaN, values outside [0, 1], an unexpected shape, no image, a random purifier without key, or one
            that couples the images of a batch, or draws, without saying so.

    Source: our choice.

    Example:
        >>> import numpy as np, jaxpurify as jp
        >>> photo = np.full((30, 40, 3), 128, np.uint8)
        >>> clean = jp.purify(jp.purifiers.GaussianSmoothing(sigma=1.0), photo)
        >>> clean.shape, clean.dtype.name
        ((30, 40, 3), 'uint8')
    """
    batch_size = check_batch_size(batch_size)
    purifier, several = as_purifier(purifier), isinstance(images, list | tuple)
    if attribute(purifier, "is_ensemble"):
        raise TypeError(
            f"{_name(purifier)} is an ensemble, which averages what a classifier says and returns no images: use it in "
            "Defended, or purify with the random purifier within it"
        )
    given = list(images) if several else [images]
    if not given:
        raise ValueError("images must hold at least one image, got an empty list")
    names = [f"images[{i}]" for i in range(len(given))] if several else ["images"]
    given = [_images.as_array(each, name=name) for each, name in zip(given, names, strict=True)]
    batches = [_as_batch(each, name, alone=several) for each, name in zip(given, names, strict=True)]
    flat = [image for batch in batches for image in batch]
    keys = _keys_of(purifier, key, len(flat))
    shown = channels.prepare(purifier, flat, keys)
    _check_independence(purifier, shown[0], keys)
    done = _purify_each(purifier, shown, keys, batch_size)
    done = [channels.restore(*each) for each in zip(done, flat, shown, strict=True)]
    if several:
        return [_as_given(image, each) for image, each in zip(done, given, strict=True)]
    return _as_given(np.stack(done) if np.ndim(given[0]) == 4 else done[0], given[0])


def _as_batch(image: Any, name: str, *, alone: bool) -> np.ndarray:
    """Check what was given and return it with all four axes, in its own dtype."""
    expected = f"{name} must be uint8, or floating point with values in [0, 1]"
    if isinstance(image, jax.core.Tracer):
        raise TypeError(f"{name} is being traced: inside jit, vmap or grad call the purifier itself on float32 images")
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or dtype is None:
        raise TypeError(f"{expected}, got {kind(image)}: pass an array, or a list of arrays")
    floating = jnp.issubdtype(dtype, jnp.floating)
    if not floating and dtype != np.uint8:
        raise TypeError(f"{expected}, got {dtype}: {_images.to_levels(dtype)}")
    expected = f"{name} must have shape (height, width) or (height, width, channel) with 1 to 4 channels"
    expected += "" if alone else ", or one more axis in front for a batch"
    if len(shape) not in ((2, 3) if alone else (2, 3, 4)):
        raise ValueError(f"{expected}, got {shape}")
    if 0 in shape:
        raise ValueError(f"{expected}, got {shape}, which holds no pixels")
    if len(shape) > 2 and shape[-1] not in COLOURS:
        first = len(shape) - 3
        axes = (0, 2, 3, 1)[: len(shape)] if first else (1, 2, 0)
        hints = [f"channels first? use images.transpose{axes}"] if shape[first] in COLOURS else []
        # A last axis of a few is that of channels, a longer one may be that of columns.
        hints += ["grey? add images[..., None]"] if not first and shape[-1] > MOST_CHANNELS else []
        hints = hints or ["take those that are colour, as in images[..., :3]"]
        raise ValueError(f"{expected}, got {shape}: {'; '.join(hints)}")
    values = np.asarray(image)
    if floating:
        _images.check_values(values.astype(np.float32), name=name)
    values = values[..., None] if values.ndim == 2 else values
    return values if values.ndim == 4 else values[None]


def _check_independence(purifier: Any, image: np.ndarray, keys: Any) -> None:
    """Refuse a purifier for which it matters what else is in a batch: on a small cut, or on the whole if it must be."""
    own = None if keys is None else keys[:1]
    for side in PROBED:
        cut = image[None, :side, :side, : COLOURS[image.shape[-1]]]
        cut = cut.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)
        try:
            made = jax.eval_shape(lambda p, x: p(x, own), purifier, cut)
        except Exception:  # it wants larger images, or says what is wrong when it gets the whole
            continue
        if getattr(made, "shape", ())[:1] == (1,):
            check_independence(purifier, cut, own, name=_name(purifier))
        return


def _keys_of(purifier: Any, key: Any, count: int) -> Any:
    """Return one key an image, or None where nothing is random."""
    random = attribute(purifier, "random")
    if key is None and random:
        raise ValueError(f"{_name(purifier)} is random, expected a key: pass key=jax.random.key(0)")
    keys = None if key is None else _keys.per_image(key, count)
    return keys if random else None


def _purify_each(purifier: Any, flat: list[np.ndarray], keys: Any, batch_size: int) -> list[np.ndarray]:
    """Purify single images ``(height, width, channel)`` of any sizes, those of equal size together.

    Sizes of which there are few among several, and large images, go through windows of few sizes where the purifier
    allows it, stage by stage where some of its stages do. What is left of the former is compiled in a hurry.
    """
    groups: dict[Any, list[int]] = {}
    for number, image in enumerate(flat):
        groups.setdefault((image.shape, image.dtype.name), []).append(number)
    done: list[Any] = [None] * len(flat)
    several = len({shape[:2] for shape, _ in groups}) > 2
    coupled, reach, stages = attribute(purifier, "couples_images"), reach_of(purifier), _stages_of(purifier)
    # Networks run slower in a hurry, and compile sooner than they run.
    light = sum(np.size(leaf) for leaf in jax.tree.leaves(purifier)) < LIGHT
    apart: list[int] = []
    for (shape, _), rows in groups.items():
        pixels = shape[0] * shape[1]
        rare = several and len(rows) < RARE and not coupled
        if (
            not coupled
            and (rare or pixels > LARGE)
            and (stages or (reach is not None and not is_narrow(purifier, shape)))
        ):
            apart += rows
            continue
        program = _hurried() if rare and pixels * len(rows) <= PIXELS and light else _call
        most = max(1, min(batch_size, (PIXELS if light else LARGE) // pixels))  # a network keeps many features a pixel
        size = len(rows) if coupled else bucket(len(rows), most)
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            filled = np.resize(part, size)
            batch, own = np.stack([flat[i] for i in filled]), None if keys is None else keys[filled]
            for row, image in zip(part, _purify_batch(purifier, batch, own, program), strict=False):
                done[row] = image
    if apart:
        images, own = [flat[i] for i in apart], None if keys is None else keys[np.array(apart)]
        if reach is not None:
            found = purify_in_windows(purifier, images, functools.partial(_windows, purifier), most=batch_size)
        else:
            found = _in_stages(stages, images, own, batch_size)
        for row, image in zip(apart, found, strict=True):
            done[row] = image
    return done


def _windows(purifier: Any, batch: np.ndarray, sizes: Any) -> np.ndarray:
    return _purify_batch(purifier, batch, sizes, _call if sizes is None else _call_filled)


def _stages_of(purifier: Any) -> tuple[Any, ...]:
    """Return the stages of a purifier that is nothing but its stages in turn, some of which can be given windows."""
    purifier = purifier.stages if isinstance(purifier, SuperResolution) else purifier
    stages = purifier.stages if isinstance(purifier, Sequential) else ()
    return stages if any(reach_of(stage) is not None or _stages_of(stage) for stage in stages) else ()


def _in_stages(stages: Any, images: list[np.ndarray], keys: Any, batch_size: int) -> list[np.ndarray]:
    """Purify with one stage after another, as ``Sequential`` does but for the windows."""
    parts = [_values(image) for image in images]
    purified = [colours for colours, _ in parts]
    for number, stage in enumerate(stages):
        own = None if keys is None or not attribute(stage, "random") else _keys.fold(keys, number)
        purified = _purify_each(stage, purified, own, batch_size)
    return [
        _finished(colours[None], opacity[None], image.dtype)[0]
        for colours, (_, opacity), image in zip(purified, parts, images, strict=True)
    ]


def bucket(count: int, most: int) -> int:
    """Return the size to which a batch is filled up, so that few sizes are compiled.

    Args:
        count: images at hand.
        most: images in one program at most.

    Returns:
        The next number among 1, 2, 3, 4, 6, 8, 12, 16, 24, …, at most ``most``.
    """
    power = 1 << max(count - 1, 0).bit_length()
    return min(most, 3 * power // 4 if 4 * count <= 3 * power and power >= 4 else power)


def _purify_batch(purifier: Any, batch: np.ndarray, extra: Any, program: Any) -> np.ndarray:
    """Purify the colour of images of one size and bring opacity to the new size; the same dtype comes back."""
    colours, opacity = _values(batch)
    if program._cache_size() >= (PROGRAMS if program in (_call, _call_filled) else RARE_PROGRAMS):
        program.clear_cache()
        if next(_CLEARED) % 4 == 0:  # what JAX keeps of functions within them is some megabytes a size too
            jax.clear_caches()
    try:
        purified = np.asarray(program(purifier, jnp.asarray(colours), extra))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(purifier, batch) from None
    except MemoryError:
        raise _too_large(purifier, batch) from None
    if not np.isfinite(purified).all():
        raise ValueError(f"{_name(purifier)} returned NaN or infinity for finite images: check its parameters")
    return _finished(purified, opacity, batch.dtype)


def _too_large(purifier: Any, batch: np.ndarray) -> MemoryError:
    count, height, width, _ = batch.shape
    several = f"{count} images" if count > 1 else "an image"
    remedy = "a smaller batch_size, or " if count > 1 else ""
    return MemoryError(
        f"{_name(purifier)} finds too little memory for {several} of {height}×{width} pixels: {remedy}smaller images"
    )


def _values(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return colours and opacity as real numbers from 0 to 1."""
    wide = images.dtype == np.float64 and jnp.result_type(float) == np.float64
    values = images.astype(np.float64 if wide else np.float32)
    values = np.divide(values, 255, dtype=values.dtype) if images.dtype == np.uint8 else values
    colours = COLOURS[images.shape[-1]]
    return values[..., :colours], values[..., colours:]


def _finished(purified: np.ndarray, opacity: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the purified colours of a batch with its opacity, in the dtype that came."""
    if opacity.shape[-1]:
        sides, resized = opacity.shape[1:3], purified.shape[1:3]
        if max(*sides, *resized) > LONG and sides != resized:
            rows, columns = (resampling_band(each) for each in zip(sides, resized, strict=True))
            opacity = np.asarray(resample(jnp.asarray(opacity), rows=rows, columns=columns))
        elif sides != resized:
            height, width = resized
            opacity = np.asarray(_images.resize(jnp.asarray(opacity), height=height, width=width, method="bilinear"))
        purified = np.concatenate([purified, opacity], axis=-1)
    if dtype == np.uint8:
        return np.rint(np.clip(purified, 0, 1) * 255).astype(np.uint8)
    return purified.astype(dtype)


def _purified(purifier: Any, images: Any, keys: Any) -> Any:
    return check_purified(purifier(images, keys), images, name=_name(purifier))


# The purifier is an argument: other parameters do not compile anew.
_call = jax.jit(_purified)


@jax.jit
def _call_filled(purifier: Any, images: Any, sizes: Any) -> Any:
    return check_purified(purifier.purify_filled(images, sizes), images, name=_name(purifier))


@functools.cache
def _hurried() -> Any:
    """Return the program for sizes that are seldom seen: XLA's CPU compiler takes longer than running what it makes."""
    options = quick_compilation()
    return _call if options is None else jax.jit(_purified, compiler_options=options)


def _as_given(purified: np.ndarray, given: Any) -> Any:
    purified = purified[..., 0] if np.ndim(given) == 2 else purified
    return jnp.asarray(purified) if isinstance(given, jax.Array) else purified


def _name(purifier: Any) -> str:
    return getattr(purifier, "name", type(purifier).__name__)
