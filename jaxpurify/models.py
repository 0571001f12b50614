"""The contracts: purifiers, classifiers and the defended models made of the two.

Whatever an attack attacks is a *target*: a pytree callable ``(images, key=None) -> outputs``. Being pytrees, targets
pass through ``jit`` as arguments, so new weights and new parameters do not compile anew.
"""

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.callables import check_model
from jaxpurify.checks import check_count, is_from
from jaxpurify.classifiers import Classifier as Classifier
from jaxpurify.classifiers import Function as Function
from jaxpurify.classifiers import classifier as classifier
from jaxpurify.classifiers import is_nnx, of_function, of_nnx, of_pytree
from jaxpurify.outputs import check_purified, explained
from jaxpurify.pytrees import concrete, pytree_dataclass, static

Class = TypeVar("Class", bound=type)
ATTRIBUTES = {"random": False, "couples_images": False, "changes_size": False, "reach": None}
# Folded into a random classifier's keys: no purifier has so many stages, nor splits its key so often,
# so none shares them.
_CLASSIFIER = 0xC1A551F1


@dataclass_transform(kw_only_default=True, frozen_default=True)
def purifier(cls: Class) -> Class:
    """Make a purifier of a class: a frozen keyword-only dataclass, a pytree, called ``purifier(images, key=None)``.

    The class defines ``__call__(self, images, key=None)`` and may define ``check(self)`` (run when a person constructs
    it, never when JAX does) and ``surrogate(self)`` (a differentiable stand-in for a stage without a useful gradient).
    Class attributes ``random`` (it needs keys), ``couples_images`` (images of a batch influence one another) and
    ``changes_size`` default to False. ``reach``, an attribute or a property, defaults to None: how many pixels away, in
    rows and in columns, a pixel of the result depends on; with it ``purify`` works on large images, and on many sizes,
    in windows. It promises that the result does not depend on where a pixel lies but for the border, and that the size
    is kept or enlarged by a whole number; ``testing.check_purifier`` holds it to that.

    Around ``__call__`` the shape and dtype of the images are checked, and a random purifier receives an array of typed
    keys, one an image, whatever the caller passed; any other receives None.

    Args:
        cls: the class. Annotated fields are leaves or children; fields made by ``static`` fix shapes and loops.

    Returns:
        The class, registered as a pytree.

    Raises:
        TypeError: if the class has no ``__call__``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxpurify as jp
        >>> @jp.purifier
        ... class Fade:
        ...     amount: float = 0.5
        ...     def __call__(self, images, key=None):
        ...         return images * (1 - self.amount)
        >>> float(Fade(amount=0.25)(jnp.ones((1, 2, 2, 3)))[0, 0, 0, 0])
        0.75
    """
    if "__call__" not in cls.__dict__:
        raise TypeError(f"{cls.__name__} must define __call__(self, images, key=None) to be a purifier")
    for name, default in ATTRIBUTES.items():
        if not hasattr(cls, name):
            setattr(cls, name, default)
    cls.__call__ = _checked(cls.__call__)  # type: ignore[method-assign, misc]
    cls.is_purifier = True  # type: ignore[attr-defined]
    return pytree_dataclass(cls, class_attributes=tuple(ATTRIBUTES), typed=True)


def _checked(call: Callable) -> Callable:
    def __call__(self, images, key=None):
        images = _images.as_jax(images)
        _images.check_images(images)
        name = type(self).__name__
        if self.random:
            if key is None:
                raise ValueError(f"{name} is random, expected a key: pass key=jax.random.key(0)")
            key = _keys.per_image(key, images.shape[0])
        elif key is not None:
            _keys.check_key(key)
            key = None  # a stage must not fold what no stage needs
        with explained(name, images):
            purified = call(self, images, key)
        shape = check_purified(purified, images, name=name).shape
        if not self.changes_size and shape != images.shape:
            raise ValueError(f"{name} returned shape {shape} for {images.shape}: set changes_size = True on the class")
        return purified

    __call__.__doc__ = call.__doc__
    __call__.__wrapped__ = call  # type: ignore[attr-defined]
    return __call__


@purifier
class Sequential:
    """Purify with one purifier after another.

    Args:
        stages: the purifiers, in order. Stage number i receives the keys with i folded in. The last may be an ensemble
            (``jaxpurify.Ensemble``): then the whole is one, whose every draw passes all stages.

    Raises:
        TypeError: if a stage is no purifier, or an ensemble that is not the last.

    Source: our choice.
    """

    stages: tuple[Any, ...]

    def __init__(self, *stages: Any):
        for number, stage in enumerate(stages):
            if not callable(stage) or isinstance(stage, type):
                got = f"the class {stage.__name__}" if isinstance(stage, type) else type(stage).__name__
                raise TypeError(f"stage {number} of Sequential must be a purifier, got {got}")
            if attribute(stage, "is_ensemble") and number < len(stages) - 1:
                raise TypeError(
                    f"stage {number} of Sequential is an ensemble ({type(stage).__name__}), which averages what a "
                    "classifier says and gives no images to the next stage: put it last"
                )
        object.__setattr__(self, "stages", tuple(as_purifier(stage) for stage in stages))

    @property
    def random(self) -> bool:  # type: ignore[override]
        return any(attribute(stage, "random") for stage in self.stages)

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        return any(attribute(stage, "couples_images") for stage in self.stages)

    @property
    def changes_size(self) -> bool:  # type: ignore[override]
        return any(attribute(stage, "changes_size") for stage in self.stages)

    @property
    def reach(self) -> int | None:  # type: ignore[override]
        # In pixels of the images that come, of which a stage behind one that enlarges sees fewer.
        reaches: list[Any] = [
            None if hasattr(stage, "aligned") else getattr(stage, "reach", None) for stage in self.stages
        ]
        return None if None in reaches else sum(reaches)

    @property
    def is_ensemble(self) -> bool:
        """Whether the last stage is an ensemble."""
        return bool(self.stages) and attribute(self.stages[-1], "is_ensemble")

    def after(self, *stages: Any) -> Any:
        """Return the ensemble that comes last, every draw of which passes the given stages and all of these first."""
        return self.stages[-1].after(*stages, *self.stages[:-1])

    def __call__(self, images, key=None):
        if self.is_ensemble:
            return self.after()(images, key)
        for number, stage in enumerate(self.stages):
            images = stage(images, None if key is None else _keys.fold(key, number))
        return images


@purifier
class Repeat:
    """Purify several times over with one purifier.

    Args:
        stage: the purifier; pass number i receives the keys with i folded in.
        times: number of passes (static: one compilation a value). The passes are unrolled;
            ``gradients.rematerialised`` turns them into one loop with the memory of a single pass.

    Source: our choice.
    """

    stage: Any
    times: int = static(2)

    def check(self):
        """Refuse a number of passes below one."""
        check_count(self.times, name="times")
        if attribute(self.stage, "changes_size"):
            raise ValueError("Repeat needs a purifier that keeps the size of its images, got one with changes_size")
        if attribute(self.stage, "is_ensemble"):
            raise ValueError("Repeat needs a purifier, got an ensemble: repeat the purifier within it")
        object.__setattr__(self, "stage", as_purifier(self.stage))

    @property
    def random(self) -> bool:  # type: ignore[override]
        return attribute(self.stage, "random")

    @property
    def couples_images(self) -> bool:  # type: ignore[override]
        return attribute(self.stage, "couples_images")

    @property
    def reach(self) -> int | None:  # type: ignore[override]
        reach = getattr(self.stage, "reach", None)
        return None if reach is None or hasattr(self.stage, "aligned") else self.times * reach

    def __call__(self, images, key=None):
        for number in range(self.times):
            images = self.stage(images, None if key is None else _keys.fold(key, number))
        return images


def attribute(model: Any, name: str) -> bool:
    """Return ``random``, ``couples_images``, ``changes_size`` or the like of any callable; absent means False.

    Args:
        model: a purifier, target or plain function.
        name: the attribute's name.

    Returns:
        Its truth value.
    """
    return bool(getattr(model, name, False))


def sweep(model: Any, **values: Any) -> Any:
    """Give some leaves of a purifier several values and repeat the others, for ``jax.vmap``.

    ``jax.vmap(lambda p: p(images))(jp.sweep(purifier, sigma=sigmas))`` then just works.

    Args:
        model: a purifier, or any frozen dataclass that is a pytree (an attack too).
        values: a 1-D array a field; all of one length. A field of a stage is named by its path, with two underscores
            between its parts: ``stages__0__sigma``.

    Returns:
        The same kind of object, every leaf with a leading axis of that length.

    Raises:
        ValueError: if a name is no leaf of it, or lengths differ.
    """
    if not values:
        raise ValueError("sweep needs at least one field with its values, such as sigma=jnp.linspace(0.5, 2.0, 4)")
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    lengths = {array.shape[:1] for array in arrays.values()}
    if len(lengths) != 1 or () in lengths:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"swept fields must be arrays of one length, got shapes {shapes}")
    (length,) = lengths.pop()
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    paths = ["__".join(_part(part) for part in path) for path, _ in leaves]
    for name in arrays:
        if name not in paths:
            raise ValueError(f"{type(model).__name__} has no leaf {name} to sweep, expected one of {sorted(paths)}")
    swept = [
        arrays.get(path, jnp.broadcast_to(jnp.asarray(leaf), (length, *jnp.shape(leaf))))
        for path, (_, leaf) in zip(paths, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, swept)


def _part(part: Any) -> str:
    return str(getattr(part, "name", getattr(part, "idx", getattr(part, "key", part))))


@pytree_dataclass
class Defended:
    """A classifier behind a purifier: the target that a defence is judged by.

    Args:
        classifier: images to logits; what ``jaxpurify.classifier`` takes is taken here too.
        purifier: images to images, an ensemble around the classifier, or None.

    Raises:
        ValueError: if the purifier changes the size of the images and the classifier cannot take the new one.
    """

    classifier: Any
    purifier: Any

    def __init__(self, classifier: Any, purifier: Any = None):
        for name, value in (("classifier", classifier), ("purifier", purifier)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable, got {type(value).__name__}")
        object.__setattr__(self, "classifier", as_target(classifier))
        object.__setattr__(self, "purifier", None if purifier is None else as_purifier(purifier))
        self._check_sizes()

    def _check_sizes(self):
        shape = getattr(self.classifier, "image_shape", None)
        if shape is None or not attribute(self.purifier, "changes_size") or not concrete(self):
            return
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        key = jax.random.key(0) if attribute(self.purifier, "random") else None
        after = jax.eval_shape(lambda purify, x: purify(x, key), self.purifier, image).shape[1:]
        if after != shape:
            raise ValueError(
                f"{type(self.purifier).__name__} turns images of {shape} into {after}, which {self.classifier.name} "
                f"cannot take: it takes {shape} only; resize back, or use a classifier with global pooling"
            )

    @property
    def random(self) -> bool:
        return attribute(self.classifier, "random") or attribute(self.purifier, "random")

    @property
    def couples_images(self) -> bool:
        return attribute(self.classifier, "couples_images") or attribute(self.purifier, "couples_images")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classifier's classes, or None."""
        return getattr(self.classifier, "class_names", None)

    @property
    def calls_back(self) -> bool:
        """Whether computing it calls back to the host, so that no loop around it may run on the device."""
        return attribute(self.classifier, "calls_back") or attribute(self.purifier, "calls_back")

    def __call__(self, images, key=None):
        images = _images.as_jax(images)
        _images.check_images(images)
        if self.random:
            if key is None:
                raise ValueError("the defended model is random, expected a key: pass key=jax.random.key(0)")
            key = _keys.per_image(key, images.shape[0])
        if attribute(self.purifier, "is_ensemble"):
            ensemble = self.purifier.after()
            return ensemble.average(Defended(self.classifier, ensemble.stage), images, key)
        if self.purifier is not None:
            purified = self.purifier(images, key if attribute(self.purifier, "random") else None)
            images = check_purified(purified, images, name=getattr(self.purifier, "name", type(self.purifier).__name__))
        outputs = self.classifier(
            images, _keys.fold(key, _CLASSIFIER) if attribute(self.classifier, "random") else None
        )
        if self.purifier is None:
            return outputs
        # A compiled network may lose NaN (XLA's maximum on the CPU drops it), and a purifier's NaN would be classified.
        finite = jnp.isfinite(images).all(axis=(1, 2, 3))
        return jax.tree.map(lambda leaf: _where_finite(finite, leaf), outputs)


def _where_finite(finite: jax.Array, outputs: jax.Array) -> jax.Array:
    if jnp.issubdtype(outputs.dtype, jnp.floating):
        nothing: Any = jnp.nan
    else:  # decisions: none is true, or all are as low as can be, which names no class either
        nothing = False if outputs.dtype == bool else jnp.iinfo(outputs.dtype).min
    shape = (len(finite),) + (1,) * (outputs.ndim - 1)
    return jnp.where(finite.reshape(shape), outputs, jnp.asarray(nothing, outputs.dtype))


def as_purifier(model: Any) -> Any:
    """Return a purifier of whatever makes images of images: a pytree callable ``(images, key=None) -> images``.

    Args:
        model: a purifier (taken as it is), a Flax NNX or Equinox module, or a plain function ``f(images)`` or
            ``f(images, key)``.

    Returns:
        A pytree callable.

    Raises:
        TypeError: if it is a class, or cannot be called with images.
    """
    return of_nnx(model) if is_nnx(model) else as_target(model, name="a purifier")


def as_target(model: Any, *, name: str = "a target") -> Any:
    """Return a target of whatever is attacked: a pytree callable ``(images, key=None) -> outputs``.

    Args:
        model: a classifier, defended model or purifier (taken as they are), a module, or a plain function
            ``f(images)`` or ``f(images, key)`` with outputs of any kind.
        name: what messages call it.

    Returns:
        A pytree callable.

    Raises:
        TypeError: if it is a class, or cannot be called with images.
    """
    check_model(model, name=name)
    registered = not jax.tree_util.all_leaves([model])
    known = attribute(model, "is_purifier") or attribute(model, "is_target")
    if registered and (isinstance(model, Function | Defended) or known):
        return model
    if is_nnx(model) or is_from(model, "flax.linen", "Module"):
        return classifier(model)
    return of_pytree(model, random=attribute(model, "random")) if registered else of_function(model)
