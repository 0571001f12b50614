"""What a model returns and how it fails, judged in one place: logits, or one sentence that says what to change."""

import contextlib
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify.checks import is_from, kind

_OURS = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
TRAINING = (
    "changes its own variables when it is called: is it in training mode? call model.eval() first, or bind the "
    "argument that says so, e.g. functools.partial(model, train=False)"
)
_NOT_JAX = (
    "must be written in JAX throughout, got Python, NumPy or another library's code that needs the values of a traced "
    "array: use jax.numpy and jax.lax, or jaxpurify.interop.torch_classifier for a PyTorch module"
)


def check_logits(outputs: Any, count: int, *, name: str, torch: bool = False) -> Any:
    """Check, statically, that what a model returned are logits, so that it works under ``jit``.

    Whole numbers and truth values are logits too: a decision is one-hot.

    Args:
        outputs: what the model returned, traced or not, or its ``jax.ShapeDtypeStruct``.
        count: number of images that it was given.
        name: the model's name, for the message.
        torch: whether the model is PyTorch's, whose tensors are meant.

    Returns:
        The logits; NumPy's as a JAX array.

    Raises:
        ValueError: if they are not logits of shape ``(count, classes)``: with the usual cause and the remedy.
    """
    array = hasattr(outputs, "dim") if torch else isinstance(outputs, _OURS)
    if array:
        got, remedy = ("", "") if torch else _dtype_fault(outputs.dtype)
        got, remedy = (got, remedy) if remedy else _shape_fault(tuple(outputs.shape), count, torch)
    else:
        got, remedy = _kind_fault(outputs, torch)
    if remedy:
        raise ValueError(f"{name} must return logits of shape ({count}, classes), got {got}: {remedy}")
    return jnp.asarray(outputs) if isinstance(outputs, np.ndarray) else outputs


def check_purified(purified: Any, images: Any, *, name: str) -> Any:
    """Check, statically, that a purifier returned images for images; their size may be another.

    Args:
        purified: what it returned.
        images: what it was given, shape ``(batch, height, width, channel)``.
        name: the purifier's name, for the message.

    Returns:
        What it returned.

    Raises:
        ValueError: if that is not floating-point images, one for each, of as many channels.
    """
    if not isinstance(purified, _OURS):
        got, remedy = _kind_fault(purified, False)
        raise ValueError(
            f"{name} must return images for images, got {got}: {remedy.replace('the logits', 'the images')}"
        )
    shape = purified.shape
    if len(shape) != 4 or shape[0] != images.shape[0]:
        raise ValueError(f"{name} must return images for images, got shape {shape} for {images.shape}")
    if shape[3] != images.shape[3]:
        raise ValueError(
            f"{name} must return as many channels as it is given, got shape {shape} for {images.shape}: channels last, "
            "as they came?"
        )
    if not jnp.issubdtype(purified.dtype, jnp.floating):
        raise ValueError(f"{name} must return images with values in [0, 1], got {purified.dtype}: return floats")
    return purified


def is_training_fault(error: Exception) -> bool:
    """Say whether a Flax module was refused because it changes its own variables.

    Args:
        error: what was raised.

    Returns:
        Whether it is one of Flax's errors that mean this.
    """
    return any(is_from(error, "flax", name) for name in ("TraceContextError", "ModifyScopeVariableError"))


@contextlib.contextmanager
def explained(name: str, images: Any) -> Iterator[None]:
    """Turn the errors by which JAX and Flax refuse a model's code into one sentence.

    Args:
        name: the model's name.
        images: what it is given.

    Yields:
        Nothing.

    Raises:
        ValueError: in the place of such an error, which is its cause.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error, jnp.shape(images))
        if not reason:
            raise
        raise ValueError(f"{name} {reason}") from error


def _reason(error: Exception, shape: tuple[int, ...]) -> str:
    if is_training_fault(error):
        return TRAINING
    if is_from(error, "flax", "InvalidRngError"):
        return (
            "draws random numbers when it is called: is it in training mode? bind the argument that says so, e.g. "
            "functools.partial(module.apply, train=False), or give a function with a parameter key that passes rngs="
        )
    if is_from(error, "flax", "CallCompactUnboundModuleError"):
        return "is called without its variables: give jaxpurify.classifier the module and its variables"
    if is_from(error, "flax", "FlaxError"):
        return f"cannot be called with these variables: {_first_sentence(error)}"
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return "keeps a traced array from an earlier call: return what it computes, and store nothing"
    if isinstance(error, ValueError) and "accepts a single key" in str(error):
        return (
            "must take an array of keys, one an image, got a function of a single key: use "
            "jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(key) and the like"
        )
    foreign = isinstance(error, TypeError | AttributeError) and re.search("Tracer|ArrayImpl", str(error))
    if foreign or isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
        return _NOT_JAX
    if isinstance(error, TypeError | AttributeError | ValueError | RuntimeError):
        passed = [
            frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
        ]
        if passed[-1] == "torch":
            return _NOT_JAX
        if "equinox" in passed:
            return (
                f"cannot take these images ({_first_sentence(error)}): a model of single images, with the channel axis "
                "first? pass batched=False, channels_first=True"
            )
        if isinstance(error, TypeError | ValueError) and passed[-1] in ("jax", "flax", "opt_einsum"):
            return (
                f"cannot be computed for images of shape {shape} ({_first_sentence(error)}): are they of the size, and "
                "in the order of axes, that it was made for?"
            )
    return ""


def _first_sentence(error: Exception) -> str:
    text = re.sub(r"\s*\(?https?://\S+", "", str(error)).strip()
    return " ".join(re.split(r"(?<=\w)\.\s|\n\n", text)[0].split()).rstrip(".")


def _kind_fault(outputs: Any, torch: bool) -> tuple[str, str]:
    """Return what came in the place of an array, and the remedy."""
    where = "in a module around it, e.g. self.model(images)" if torch else "e.g. lambda images: model(images)"
    take = f"take the logits out, {where}"
    if outputs is None:
        return "None", "does the function end without return?"
    if hasattr(outputs, "logits"):
        return f"{kind(outputs)} with logits in it", f"{take}.logits"
    if isinstance(outputs, Mapping):
        keys = [repr(key) for key in outputs]
        chosen = "'logits'" if "logits" in outputs else (keys or ["'logits'"])[0]
        return f"{kind(outputs)} of {', '.join(keys[:4]) or 'nothing'}", f"{take}[{chosen}]"
    fields = getattr(outputs, "_fields", None)
    if fields:
        return f"{kind(outputs)} of {', '.join(fields)}", f"{take}.{fields[0]}"
    if isinstance(outputs, tuple | list):
        return f"{kind(outputs)} of {len(outputs)}", f"{take}[0]"
    if is_from(outputs, "torch", "Tensor"):
        return kind(outputs), "wrap a PyTorch module with jaxpurify.interop.torch_classifier(module)"
    return kind(outputs), "return an array of JAX"


def _dtype_fault(dtype: Any) -> tuple[str, str]:
    """Return the dtype, and the remedy where it is not one of numbers that can be compared."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return str(dtype), "complex numbers have no order: return their real part, or their absolute value"
    if not (jnp.issubdtype(dtype, np.number) or np.dtype(dtype) == np.bool_):  # bfloat16 is a number to JAX alone
        return str(dtype), "return an array of numbers"
    return "", ""


def _shape_fault(shape: tuple[int, ...], count: int, torch: bool) -> tuple[str, str]:
    """Return the shape, and the remedy where it is not that of logits."""
    stacked = "torch.stack([torch.zeros_like(z), z], dim=-1)" if torch else "jnp.stack([jnp.zeros_like(z), z], axis=-1)"
    one = "one logit per image? return those of both classes, the first being zero, e.g. "
    single = "" if torch else "a model of single images? pass batched=False"
    got = str(shape)
    if shape == (count, 1):
        return got, one + stacked.replace("stack", "cat" if torch else "concatenate")
    if shape == (count,):
        return got, f"{one}{stacked}" + (f"; {single}" if single else "")
    if len(shape) == 2 and shape[0] == count:
        return got, "" if shape[1] else "there are no classes: check the last layer"
    if not shape:
        return "a single number", f"return logits, not a loss or a mean over the images{single and '; '}{single}"
    if len(shape) == 1:
        return got, single or "keep the batch axis"
    if len(shape) == 4 and shape[0] == count:
        axes = "(2, 3)" if torch else "(1, 2)"
        return got, f"those are images or maps of features: average them over their pixels, e.g. maps.mean({axes})"
    if len(shape) == 2 and shape[1] == count:
        return got, "classes first? transpose it"
    return got, f"expected one row for each of {count} images"
