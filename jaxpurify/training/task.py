"""What is trained: a task makes the network and the batches, and says how wrong a network is about a batch."""

from typing import Any, ClassVar

import numpy as np
from flax import nnx
from jax import Array

from jaxpurify.classifiers import Function

Batch = dict[str, Any]


class Task:
    """One kind of training; a frozen dataclass whose fields say what exactly.

    A task of your own defines these methods and is trained by the same ``fit``. What is random about a batch comes from
    the generator it is given, what is random about a step from the key: then a run that was killed goes on to the bit.

    Attributes:
        metric: the name of the score that says which checkpoint is best.
        greater_is_better: whether a larger score is better.
        loops: whether the parts that a batch is computed in pass through one loop on the device. It suits networks
            all of whose gradients are fast there; the others are driven from the host, a part a call.
    """

    metric: ClassVar[str] = "loss"
    greater_is_better: ClassVar[bool] = False
    loops: ClassVar[bool] = False

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        """Construct the network with its initial weights.

        Args:
            rngs: the source of randomness.

        Returns:
            What is trained.
        """
        raise NotImplementedError

    def prepare(self, data: Any, *, split: str = "train") -> Any:
        """Read the data once, on the host.

        Args:
            data: what the caller of ``fit`` gave.
            split: which part to take of a data set that is known by name: ``"test"`` of what is only scored.

        Returns:
            Examples that can be counted with ``len`` and chosen by a list of row numbers in ``batch``. Where they have
            ``groups``, a number an example, those of one number are held out together.

        Raises:
            ValueError: if they do not fit the task.
        """
        raise NotImplementedError

    def batch(self, source: Any, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut a batch on the host.

        Args:
            source: what ``prepare`` returned.
            rows: the examples, ``(batch,)``.
            random: where crops, flips and turns come from.

        Returns:
            Arrays by name, each with a leading batch axis.
        """
        raise NotImplementedError

    def scored_batch(self, source: Any, rows: np.ndarray, random: np.random.Generator) -> Batch:
        """Cut a batch that the network is scored on, or samples are drawn of.

        Args:
            source: what ``prepare`` returned.
            rows: the examples, ``(batch,)``.
            random: where crops come from; the same at every score.

        Returns:
            Arrays by name, as ``batch`` returns them, which makes them by default.
        """
        return self.batch(source, rows, random)

    def loss(self, network: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Compute what is minimised.

        Args:
            network: the network in training mode.
            batch: arrays by name, on the device.
            key: one typed key.

        Returns:
            The loss of each example, ``(batch,)``, and other measures by name, ``(batch,)`` each.
        """
        raise NotImplementedError

    def score(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Measure the network on images held out.

        Args:
            network: the network in evaluation mode, with averaged weights.
            batch: arrays by name, on the device.
            key: one typed key.

        Returns:
            Measures by name, ``(batch,)`` each; by default the loss and what it comes with.
        """
        losses, measures = self.loss(network, batch, key)
        return {"loss": losses} | measures

    def panels(self, network: Any, batch: Batch, key: Array) -> dict[str, Array]:
        """Show what the network does.

        Args:
            network: the network in evaluation mode, with averaged weights.
            batch: a few examples.
            key: one typed key.

        Returns:
            Images by title, ``(batch, height, width, channel)`` each; none where there is nothing to see.
        """
        return {}

    def finished(self, network: Any) -> nnx.Module:
        """Turn the trained network into the one that is used.

        Args:
            network: the trained network.

        Returns:
            The network itself by default.
        """
        return network

    def function(self, network: Any) -> Function:
        """Return the finished network as a callable pytree.

        Args:
            network: what ``finished`` returned.

        Returns:
            Images to images by default.
        """
        from jaxpurify.classifiers import of_nnx

        return of_nnx(network)
