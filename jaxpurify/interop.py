"""Models of other frameworks as targets: a PyTorch module, called on the host from compiled programs.

The forward pass is a callback, and the backward pass another, which runs PyTorch's autograd. On the CPU both get views
of XLA's own buffers (``buffer_callback``). ``jax.pure_callback`` first copies its arguments into JAX arrays, large ones
on the threads of the devices: with two devices on two cores, both callbacks wait for a thread, and for ever.
"""

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from jaxpurify.classifiers import Classifier, structure_of
from jaxpurify.outputs import check_logits
from jaxpurify.pytrees import pytree_dataclass

# Devices call back from threads of their own, and a module's modes and the kept passes are shared.
_LOCK = threading.Lock()


@pytree_dataclass
class TorchClassifier(Classifier):
    """A PyTorch module as a classifier, without leaves: its weights stay in PyTorch. Made by ``torch_classifier``.

    Attributes:
        calls_back: True: its calls leave the compiled program, so attacks drive their loops from the host.
    """

    calls_back = True


def torch_classifier(
    module: Any,
    *,
    image_shape: Any = None,
    class_names: Any = None,
    channels_first: bool = True,
    device: Any = None,
    name: str | None = None,
) -> TorchClassifier:
    """Make one pytree ``images -> logits`` of a PyTorch module, differentiable with respect to the images.

    The module itself is called, with the weights that it has at that moment. It runs in evaluation mode, and is left in
    the modes it was in; its parameters receive no gradients. It computes in its own dtype, and logits and gradients
    have the dtype of the images. Integers and truth values become int32: they serve attacks that ask for decisions or
    scores. Forward mode (``jax.jvp``) and gradients of gradients are not there.

    Args:
        module: a ``torch.nn.Module``, images to logits of shape ``(batch, classes)``; normalisation belongs inside it.
        image_shape: the only ``(height, width, channel)`` that it takes; then it is tried at once, and otherwise when
            it first meets images.
        class_names: names of the classes, in the order of the outputs.
        channels_first: whether the module wants ``(batch, channel, height, width)``, as PyTorch's own do.
        device: PyTorch's device for the images; by default where the module's parameters are.
        name: what reports call it; the class's name by default.

    Returns:
        A classifier whose ``calls_back`` is True. New weights in the same module compile nothing anew.

    Raises:
        TypeError: if the module is no ``torch.nn.Module``, or ``class_names`` is not a sequence of names.
        ValueError: if it is on another device, fails on an image of ``image_shape``, or returns no logits.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        got = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(f"module must be a torch.nn.Module, got {got}: put a function into a module's forward")
    model = _Module(module, channels_first, None if device is None else torch.device(device))
    model.check_device()
    about = structure_of(image_shape, class_names)
    if image_shape is not None:
        model.probe(about["image_shape"], np.dtype(np.float32))
    return TorchClassifier(apply=model, name=name or type(module).__name__, **about)


class Head(NamedTuple):
    """What the logits of a module are.

    Attributes:
        classes: their number.
        decides: whether they are integers or truth values.
        differentiable: whether PyTorch can differentiate them.
    """

    classes: int
    decides: bool
    differentiable: bool


class _Pass(NamedTuple):
    """A forward pass that can be differentiated: images as they came, what the module got, and what it returned."""

    images: np.ndarray
    inputs: Any
    logits: Any


# Passes that wait for their backward pass, which is told which it was by the images alone.
_kept: list[tuple["_Module", _Pass]] = []


@dataclasses.dataclass(frozen=True)
class _Module:
    """A PyTorch module that is called with NumPy arrays; equal to another of the same module."""

    module: Any
    channels_first: bool
    device: Any

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def __call__(self, variables, images):
        head = _head(self, images.shape[1:], np.dtype(images.dtype))
        return (_decisions if head.decides else _logits)(self, head.classes, images)

    def tensors(self) -> Iterator[Any]:
        yield from self.module.parameters()
        yield from self.module.buffers()

    def check_device(self) -> None:
        """Refuse a module that is elsewhere."""
        found = sorted({str(tensor.device) for tensor in self.tensors()})
        if self.device is not None and found and not any(f"{one}:".startswith(f"{self.device}:") for one in found):
            raise ValueError(
                f"{self.name} is on {' and '.join(found)}, expected {self.device}: move it with "
                f'module.to("{self.device}"), or leave out device='
            )

    def probe(self, shape: tuple[int, ...], dtype: np.dtype) -> Head:
        """Return what the logits are, found on two black images."""
        with _LOCK, self._evaluating():
            logits = self._run(np.zeros((2, *shape), dtype)).logits
        return Head(logits.shape[1], not logits.is_floating_point(), logits.requires_grad)

    def forward(self, images: np.ndarray) -> np.ndarray:
        """Return logits of ``(..., batch, height, width, channel)``."""
        torch = _torch()
        with _LOCK, self._evaluating(), torch.no_grad():
            return self._unstacked(images, self._run(_stacked(images)))

    def forward_kept(self, images: np.ndarray) -> np.ndarray:
        """Return logits, and keep the pass for ``backward``, which would run it again."""
        with _LOCK, self._evaluating():
            done = self._run(_stacked(images))
            _keep(self, done)
            return self._unstacked(images, done)

    def backward(self, images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        """Return the images' gradients; leading axes of the two are broadcast, several cotangents sharing a pass."""
        torch = _torch()
        axes = np.broadcast_shapes(images.shape[:-4], cotangents.shape[:-2])
        if images.shape[:-4] != axes and math.prod(images.shape[:-4]) > 1:
            images = np.broadcast_to(images, (*axes, *images.shape[-4:]))
        stacked = _stacked(images)
        cotangents = np.broadcast_to(cotangents, (*axes, *cotangents.shape[-2:]))
        rows = cotangents.reshape(-1, len(stacked), cotangents.shape[-1])
        gradients = []
        with _LOCK, self._evaluating():
            done = _take(self, stacked) or self._run(stacked)
            for number, row in enumerate(rows):
                cotangent = torch.from_numpy(np.array(row)).to(done.logits)
                again = number < len(rows) - 1
                (gradient,) = torch.autograd.grad(done.logits, done.inputs, cotangent, retain_graph=again)
                gradient = gradient.permute(0, 2, 3, 1) if self.channels_first else gradient
                gradients.append(_array(gradient, images.dtype))
        return np.stack(gradients).reshape(*axes, *images.shape[-4:])

    def _run(self, images: np.ndarray) -> _Pass:
        """Run the module on images that nobody else will change."""
        torch = _torch()
        like = next((tensor for tensor in self.tensors() if tensor.is_floating_point()), None)
        inputs = torch.from_numpy(images).to(
            device=self.device if self.device is not None or like is None else like.device,
            dtype=None if like is None else like.dtype,
        )
        if self.channels_first:
            inputs = inputs.permute(0, 3, 1, 2).contiguous()
        inputs.requires_grad_(torch.is_grad_enabled())
        try:
            logits = self.module(inputs)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{self.name} cannot take {tuple(inputs.shape)} images of {inputs.dtype} on {inputs.device}: {reason}"
            ) from error
        return _Pass(images, inputs, check_logits(logits, len(images), name=self.name, torch=True))

    def _unstacked(self, images: np.ndarray, done: _Pass) -> np.ndarray:
        return _array(done.logits, images.dtype).reshape(*images.shape[:-3], done.logits.shape[1])

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Set evaluation mode for a moment: batch statistics would couple the images, and dropout draw."""
        training = [part for part in self.module.modules() if part.training]
        try:
            for part in training:
                part.training = False
            with _torch().enable_grad():
                yield
        finally:
            for part in training:
                part.training = True


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("PyTorch is not installed: pip install 'jaxpurify[torch]'") from error
    return torch


def _stacked(images: np.ndarray) -> np.ndarray:
    """Return a copy (the buffer is XLA's) with all leading axes in the batch's."""
    return np.array(images).reshape(-1, *images.shape[-3:])


def _array(tensor: Any, dtype: np.dtype) -> np.ndarray:
    tensor = tensor.detach()
    # NumPy has no bfloat16.
    tensor = tensor.to("cpu", _torch().float64 if dtype == np.float64 else _torch().float32)
    return tensor.numpy().astype(dtype, copy=False)


def _keep(model: _Module, done: _Pass) -> None:
    """Keep a pass for the backward pass that follows: one a device, since what is kept holds memory."""
    _take(model, done.images)
    _kept.append((model, done))
    del _kept[: -jax.local_device_count()]


def _take(model: _Module, images: np.ndarray) -> _Pass | None:
    """Give the latest kept pass of the same images away, if there is one."""
    for number, (owner, done) in enumerate(_kept):
        if owner == model and done.images.dtype == images.dtype and np.array_equal(done.images, images):
            return _kept.pop(number)[1]
    return None


@functools.lru_cache(maxsize=64)
def _head(model: _Module, shape: tuple[int, ...], dtype: np.dtype) -> Head:
    return model.probe(shape, dtype)


def _call(name: str, function: Callable, shape: tuple[int, ...], *arrays: Any, dtype: Any = None) -> Any:
    """Call a function of NumPy arrays from a compiled program."""
    result = jax.ShapeDtypeStruct(shape, arrays[0].dtype if dtype is None else dtype)

    def into(context, out, *buffers):
        out, found = np.asarray(out), function(*(np.asarray(buffer) for buffer in buffers))
        if found.shape != out.shape:
            raise ValueError(f"{name} returned shape {found.shape} where {out.shape} was compiled: make a new module")
        out[...] = found

    def returned(*copies):
        return function(*(np.asarray(copy) for copy in copies)).astype(result.dtype, copy=False)

    return jax.lax.platform_dependent(
        *arrays,
        cpu=buffer_callback(into, result, vmap_method="expand_dims"),
        default=functools.partial(jax.pure_callback, returned, result, vmap_method="expand_dims"),
    )


# Compiled even where the call is eager, so that one program serves all calls.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(model: _Module, classes: int, images: Any) -> Any:
    return _call(model.name, model.forward, (images.shape[0], classes), images)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decisions(model: _Module, classes: int, images: Any) -> Any:
    return _call(model.name, model.forward, (images.shape[0], classes), images, dtype=np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits_forward(model: _Module, classes: int, images: Any) -> tuple[Any, Any]:
    if not _head(model, images.shape[1:], np.dtype(images.dtype)).differentiable:
        raise ValueError(
            f"{model.name} returned logits without a gradient: expected PyTorch operations throughout, without "
            "detach, no_grad, argmax or NumPy; attacks that ask for scores or decisions, such as Square, need none"
        )
    return _call(model.name, model.forward_kept, (images.shape[0], classes), images), images


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits_backward(model: _Module, classes: int, images: Any, cotangents: Any) -> tuple[Any]:
    return (_call(model.name, model.backward, images.shape, images, cotangents),)


_logits.defvjp(_logits_forward, _logits_backward)
