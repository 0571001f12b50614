"""How often the true defended models are right about images, on keys that no search has seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import keys as _keys
from jaxpurify.attacks.result import Problem
from jaxpurify.attacks.scoring import DRAWS
from jaxpurify.evaluation.run_folder import COLUMNS, NOT_FINITE, Record
from jaxpurify.models import Defended, attribute
from jaxpurify.parallel import Placement


class Batch:
    """Some images of the data, filled up with copies to the size that is compiled.

    Args:
        number: which batch of the data it is.
        rows: where its images stand in the data, shape ``(images,)``.
        images: all images of the data.
        labels: all labels.
        key: the evaluation's key.
        size: images in a full batch.
        where: the devices.
    """

    def __init__(self, number: int, rows: np.ndarray, images: Any, labels: Any, key: Any, size: int, where: Placement):
        self.number, self.rows, self.filled_rows, self.where = number, rows, np.resize(rows, size), where
        self.clean, self.labels = images[rows], labels[rows]
        filled = self.filled_rows
        self.problem = Problem(images[filled], labels[filled].astype(np.int32), None, _own_keys(key, filled))
        self.found: dict[Any, Any] = {}  # what searches found that several purifiers share
        self._drawn: dict[tuple[str, int], Any] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def filled(self, images: np.ndarray) -> np.ndarray:
        """Fill images up to the compiled size.

        Args:
            images: shape ``(images, height, width, channel)``.

        Returns:
            Shape ``(size, height, width, channel)``, with copies at the end.
        """
        return images[np.resize(np.arange(len(images)), len(self.problem.images))]

    def keys(self, purpose: str, draw: int) -> jax.Array:
        """Return the keys of one draw, the same for whatever is scored.

        Args:
            purpose: ``"score"`` or ``"select"``.
            draw: its number.

        Returns:
            Typed keys of shape ``(size,)``, on the devices.
        """
        if (purpose, draw) not in self._drawn:
            self._drawn[purpose, draw] = self.where.put(_draw_keys(self.problem.keys, purpose, np.uint32(draw)))
        return self._drawn[purpose, draw]


_own_keys = jax.jit(_keys.fold_each)
_draw_keys = jax.jit(lambda keys, purpose, draw: _keys.stream(keys, purpose, draw=draw), static_argnums=1)


class Scorer:
    """Scores images on the true defended models.

    Args:
        classifier: images to logits.
        purifiers: purifiers by name.
        where: the devices.
    """

    def __init__(self, classifier: Any, purifiers: dict[str, Any], where: Placement):
        self.targets = {name: Defended(classifier, purifier) for name, purifier in purifiers.items()}
        self.where = where

    def logits(self, name: str, batch: Batch, images: Any, purpose: str = "score", draws: int = DRAWS) -> np.ndarray:
        """Return what a defended model says.

        Args:
            name: the purifier's name.
            batch: whose keys are used.
            images: shape ``(images, height, width, channel)``, those of the batch or made of them.
            purpose: ``"score"`` for what is reported, ``"select"`` for choosing among attacks.
            draws: number of draws of a random model.

        Returns:
            Logits of shape ``(draws, images, classes)``; one draw where nothing is random.
        """
        target = self.targets[name]
        run = self.where.compile(_call, per_image=(False, True, True))
        images = self.where.put(batch.filled(np.asarray(images)))
        drawn = [batch.keys(purpose, draw) for draw in range(draws)] if target.random else [None]
        said = [run(target, images, keys) for keys in drawn]
        return np.stack([np.asarray(logits)[: len(batch)] for logits in said])

    def predictions(self, name: str, batch: Batch, images: Any) -> np.ndarray:
        """Return predicted classes in the first draw that is scored.

        Args:
            name: the purifier's name.
            batch: whose keys are used.
            images: shape ``(images, height, width, channel)``.

        Returns:
            Shape ``(images,)``; -1 where nothing is predicted.
        """
        return predictions(self.logits(name, batch, images, draws=1))[0]

    def purified(self, name: str, batch: Batch, images: Any) -> np.ndarray:
        """Return what a purifier makes of images, in the first draw that they are scored on.

        Args:
            name: its name.
            batch: whose keys are used.
            images: shape ``(images, height, width, channel)``.

        Returns:
            Purified images.
        """
        purifier = self.targets[name].purifier
        run = self.where.compile(_call, per_image=(False, True, True))
        keys = batch.keys("score", 0) if attribute(purifier, "random") else None
        return np.asarray(run(purifier, self.where.put(batch.filled(np.asarray(images))), keys))[: len(images)]

    def score(self, name: str, batch: Batch, images: Any, *, finite: np.ndarray | None = None) -> list[Record]:
        """Return records of images with their scores, all else left open.

        Args:
            name: the purifier's name.
            batch: the batch.
            images: shape ``(images, height, width, channel)``.
            finite: of attacked images, whether the search met finite numbers alone or succeeded, shape ``(images,)``.

        Returns:
            A row an image for a deterministic model; for a random one, such rows for each of three ways of scoring. A
            draw in which the model says NaN or infinity, or nothing, counts as wrong. Where such numbers, and not
            another class, are why an attacked image stands, nothing is proved of it: it counts as wrong in every draw.
        """
        predicted = predictions(self.logits(name, batch, images))
        right = (predicted == batch.labels[None]).astype(np.float64)
        fooled, share = ((predicted >= 0) & (right == 0)).mean(axis=0), right.mean(axis=0)
        unproved = np.zeros(len(batch), bool) if finite is None else (fooled <= 0.5) & (~finite | (share < 0.5))
        right = np.where(unproved[None], 0.0, right)
        if not self.targets[name].random:
            found = self._rows(name, batch, "single", right[0], right[0], predicted[0].tolist())
        else:
            select = predictions(self.logits(name, batch, images, "select"))
            selection = np.where(unproved, 0.0, (select == batch.labels[None]).mean(axis=0))
            share = right.mean(axis=0)
            ways = {"mean": share, "worst": right.min(axis=0), "majority": (share > 0.5).astype(np.float64)}
            blank = [""] * len(batch)
            found = [
                row for way, correct in ways.items() for row in self._rows(name, batch, way, correct, selection, blank)
            ]
        broken = unproved | np.any(predicted < 0, axis=0)
        return [row | {"status": NOT_FINITE} if broken[i % len(batch)] else row for i, row in enumerate(found)]

    def _rows(self, name, batch, scoring, correct, selection, prediction) -> list[Record]:
        blank = dict.fromkeys(COLUMNS, float("nan")) | {"purifier": name, "scoring": scoring, "status": 0}
        columns = zip(batch.rows, batch.labels, correct, selection, prediction, strict=True)
        names = ("image", "label", "correct", "selection", "prediction")
        return [blank | dict(zip(names, row, strict=True)) for row in columns]


def predictions(logits: np.ndarray) -> np.ndarray:
    """Return predicted classes.

    Args:
        logits: of any dtype, shape ``(draws, images, classes)``. Minus infinity is a class that cannot win.

    Returns:
        Shape ``(draws, images)``; -1 where nothing is predicted: where a logit is NaN or infinite, where all are minus
        infinity, or False, or the lowest integer.
    """
    logits = np.asarray(logits)
    values = logits.astype(np.float64)
    # The lowest integer stands for an image about which a model of integers says nothing.
    lowest = np.iinfo(logits.dtype).min if logits.dtype.kind in "iu" else 0 if logits.dtype == bool else -np.inf
    said = (values > lowest).any(axis=-1)
    return np.where(said & ~unusable(values).any(axis=-1), values.argmax(axis=-1), -1)


def unusable(logits: np.ndarray) -> np.ndarray:
    """Say which logits predict nothing.

    Args:
        logits: any shape.

    Returns:
        Booleans of the same shape: whether each is NaN or infinite; minus infinity is neither.
    """
    values = np.asarray(logits, np.float64)
    return np.isnan(values) | np.isposinf(values)


def _call(target, images, keys):
    return target(jnp.asarray(images), keys)
