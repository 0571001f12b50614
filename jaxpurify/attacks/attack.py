"""What all attacks share: checks, keys, and the search driven from the host or inside a trace.

An attack is a frozen pytree. Its search is one function, ``advance``, called ``restarts × evaluations`` times: it
evaluates the current iterate, keeps the best and moves on. On the CPU the host drives one jitted, donated ``advance``,
because convolution gradients inside device loops are many times slower there; on accelerators, and wherever the call is
itself being traced (inside a jitted training step, say), it is one device loop.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpurify import images as _images
from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.checks import (
    SIZES,
    check_classes,
    check_counts,
    check_epsilon,
    check_numbers,
    check_sizes,
    check_targets,
)
from jaxpurify.attacks.norms import ball
from jaxpurify.attacks.result import Answer, AttackResult, Best, Problem, per_image, summarise
from jaxpurify.attacks.tracing import classes_of, differentiable
from jaxpurify.models import as_target, attribute
from jaxpurify.parallel import Placement, placement
from jaxpurify.pytrees import concrete, pytree_dataclass, static


class Attack:
    """Base of every attack; a subclass is a frozen pytree dataclass and defines ``advance``.

    Attributes:
        norm: the ball's norm.
        epsilon: its size, or one for each image.
        step_size: length of a step, or one for each image; None where the attack sets it.
        restarts: independent searches, of which the best image is kept.
        evaluations: calls of ``advance`` a restart.
        needs_key: whether the search itself draws random numbers.
        sees_target: whether success in the search is the target's own on that very image.
        uses_gradient: whether it differentiates the target.
        minimal_norm: whether it looks for the nearest image that succeeds, and not for the worst one in the ball. Then
            epsilon may be None, and its images, shown to another model, make that look better than it is.
        steps_in_images: whether ``step_size`` is a length in the units of the images.
        target_classes: of how many other classes, the likeliest first, each is aimed at in a search of its own; 0 for
            attacks that aim at none.
    """

    norm: str
    epsilon: Any
    step_size: Any = None
    restarts: int
    trace: bool = False
    success: Any = None
    loss: Any = "cross-entropy"
    uses_gradient = True
    minimal_norm = False
    steps_in_images = True
    target_classes: int | None = 0

    def check(self):
        """Refuse sizes that cannot be meant and counts below one."""
        for name in SIZES:
            if isinstance(getattr(self, name), list | tuple):
                object.__setattr__(self, name, np.asarray(getattr(self, name)))
        if self.minimal_norm and self.epsilon is None:
            ball(self.norm)
        else:
            check_epsilon(self.norm, self.epsilon)
        if self.step_size is not None and concrete(self.step_size):
            check_sizes("step_size", self.step_size, above=True)
            if self.norm == "linf" and self.steps_in_images and np.max(np.asarray(self.step_size)) > 1:
                got = float(np.max(np.asarray(self.step_size)))
                raise ValueError(f"step_size must be at most 1 in the linf norm, got {got}: divide by 255")
        check_counts(self, "restarts")
        losses.resolve(self.loss)

    @property
    def name(self) -> str:
        """What tables call it, such as ``PGD-40`` or ``Square-5000 l2``."""
        count = next((getattr(self, name) for name in ("steps", "draws", "queries") if hasattr(self, name)), 1)
        return type(self).__name__ + (f"-{count}" if count != 1 else "") + self._norm_suffix

    @property
    def _norm_suffix(self) -> str:
        return "" if self.norm == "linf" else f" {self.norm}"

    @property
    def evaluations(self) -> int:
        """Calls of ``advance`` a restart."""
        raise NotImplementedError

    @property
    def searches(self) -> int:
        """Independent searches: the number of different values of ``restart``."""
        return self.restarts * max(1, self.target_classes or 0)

    def calls(self, target: Any, classes: int) -> int:
        """Return the number of compiled calls of a full-budget search of one batch.

        Args:
            target: what is attacked.
            classes: its number of classes.

        Returns:
            The number, for progress bars.
        """
        del target, classes  # only a cascade's attacks depend on them
        return self.searches * self.evaluations

    @property
    def needs_key(self) -> bool:
        """Whether the search draws random numbers even against a deterministic target."""
        raise NotImplementedError

    @property
    def sees_target(self) -> bool:
        """Whether success in the search is the target's own on that very image."""
        return True

    def blank(self, problem: Problem) -> Any:
        """Return a state of the right structure, overwritten by the first ``advance``."""
        raise NotImplementedError

    def advance(self, target: Any, problem: Problem, state: Any, restart: Any, step: Any) -> Any:
        """Evaluate the current iterate, keep the best and move on; at step 0 start anew first.

        The first entry of the state is the ``Best``, the second the loss just met; every leaf has a leading batch axis.
        """
        raise NotImplementedError

    def at_clean(self, problem: Problem, state: Any) -> Any:
        """Return the state from which ``advance`` judges the clean images, or None if the search has met them."""
        return None

    def finished(self, state: Any) -> Any:
        """Return for which images no further call changes anything, shape ``(batch,)``, or False where none is known.

        Args:
            state: the search so far.

        Returns:
            Booleans.
        """
        del state
        return False

    def settled(self, best: Best, problem: Problem) -> Best:
        """Return what a search that has ended hands out of what it kept.

        Args:
            best: what was kept.
            problem: what was attacked.

        Returns:
            What results are made of.
        """
        del problem
        return best

    def judgement(self) -> Any:
        """Return the judgement of success alone, as a pytree of structure only."""
        return Judgement(function=self.success)

    def answer(self, outputs: Any, problem: Problem) -> Answer:
        """Return what a target's outputs say of images.

        Args:
            outputs: what the target returned, every leaf with a leading batch axis.
            problem: labels and targets.

        Returns:
            Margins, successes and oddities.
        """
        success = losses.succeeded(self.success, outputs, problem.labels, problem.targets)
        margin, finite = losses.label_margin(outputs, problem.labels), losses.proper(outputs)
        return Answer(margin, success & finite, finite, losses.like_probabilities(outputs))

    def __call__(self, target: Any, images: Any, labels: Any, key: Any = None, targets: Any = None) -> AttackResult:
        """Spend the full budget and return the best iterate of each image.

        Pure and traceable: it nests in ``jit``, ``grad`` and ``vmap``.

        Args:
            target: a classifier, defended model, or any ``(images, key=None) -> outputs``.
            images: clean images, float32, shape ``(batch, height, width, channel)``, in [0, 1].
            labels: integers of shape ``(batch,)``, or whatever the attack's own loss takes as its reference.
            key: one typed key or an array of ``batch`` of them; may be left out where nothing is random.
            targets: classes to reach, shape ``(batch,)``; untargeted without.

        Returns:
            Images that succeed before images that do not, and among equals the highest loss.

        Raises:
            TypeError: on wrong dtypes or raw keys.
            ValueError: on wrong shapes, values out of range, or a missing key.
        """
        target = as_target(target)
        problem = self.prepare(target, images, labels, key, targets)
        if not concrete((self, target, problem)) or isinstance(jnp.zeros(()), jax.core.Tracer):
            problem = jax.tree.map(jnp.asarray, problem)
            return self._on_device(target, problem)
        if jax.default_backend() != "cpu" and not attribute(target, "calls_back"):
            return _jitted_on_device(self.canonical(problem.images.dtype), target, problem)
        where = placement(None)
        best, trace = self.search(target, problem, where=where)
        return self.result(best, problem, trace)

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call and give every image its key.

        Args:
            target: the target.
            images: clean images.
            labels: references.
            key: one typed key, an array of them, or None.
            targets: references to reach, or None.

        Returns:
            The problem. What came in host memory stays there: not all of it need fit a device.
        """
        images = _images.as_array(images, name="images")
        images = _canonical(images) if isinstance(images, np.ndarray) and images.dtype.kind == "f" else images
        _images.check_images(images)
        count = images.shape[0]
        if concrete(images):
            _images.check_values(images)
        check_numbers(self, count, images.shape[1:])
        own_judgement = callable(self.loss) and self.success is not None
        if not own_judgement:
            classes = classes_of(target, images, key, judgement="success" if callable(self.loss) else "loss")
            labels, targets = (
                None if tree is None and name == "targets" else self._classes(tree, count, classes, name)
                for name, tree in (("labels", labels), ("targets", targets))
            )
            check_classes(self, classes, targeted=targets is not None)
            check_targets(labels, targets)
        if self.uses_gradient and not differentiable(target, images):
            raise ValueError(
                f"{type(self).__name__} follows gradients, got a target that returns integers or truth values, which "
                "have none: give one that returns logits, or use Square or HopSkipJump, which ask for scores or "
                "decisions alone"
            )
        random = attribute(target, "random")
        if key is None and (random or self.needs_key):
            reason = "the target is random" if random else f"{type(self).__name__} starts from random points"
            raise ValueError(f"{reason}, expected a key: pass key=jax.random.key(0)")
        keys = None if key is None else _keys.per_image(key, count)
        labels, targets = jax.tree.map(_canonical, labels), jax.tree.map(_canonical, targets)
        return self.sized(Problem(images, labels, targets, keys))

    @staticmethod
    def _classes(labels: Any, count: int, classes: int, name: str) -> Any:
        labels = _images.as_array(labels, name=name)
        _images.check_labels(labels, count, classes=classes, name=name)
        return labels.astype(np.int32)

    def sized(self, problem: Problem, rows: Any = None) -> Problem:
        """Return a problem with this attack's sizes, one for each image, unless it has sizes already.

        Args:
            problem: images and references.
            rows: which images of those that the attack has sizes for, shape ``(batch,)``; by default all, in order.

        Returns:
            The problem, whose sizes are what the search reads.
        """
        if problem.epsilon is not None or problem.step_size is not None:
            return problem
        epsilon, step_size = (per_image(size, problem, rows=rows) for size in (self.epsilon, self.step_size))
        return problem._replace(epsilon=epsilon, step_size=step_size)

    def canonical(self, dtype: Any) -> Any:
        """Return the attack with its numbers as arrays of one dtype, so that no way of writing ε compiles anew.

        Sizes are zeros: searches read those of the problem, of which there is one for each image.
        """
        plain = copy.copy(self)
        for name in SIZES:
            if vars(self).get(name) is not None:
                vars(plain)[name] = 0.0
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), plain)

    def search(self, target: Any, problem: Problem, *, where: Placement, progress: Any = None) -> tuple[Best, Any]:
        """Drive the whole search from the host.

        Args:
            target: the target.
            problem: what is attacked.
            where: the devices.
            progress: called without arguments after each ``advance``, or None.

        Returns:
            The best iterates, and the losses of shape ``(batch, evaluations)`` where the attack keeps a trace.
        """
        problem = self.sized(problem)
        attack, target = where.everywhere((self.canonical(problem.images.dtype), target))
        state, trace = where.put(distinct(attack.blank(problem))), []
        problem = where.put(problem)
        run = where.compile(advance, per_image=(False, False, True, True, False, False), donate=(3,))
        for restart in range(self.searches):
            for step in range(self.evaluations):
                state = run(attack, target, problem, state, np.uint32(restart), np.uint32(step))
                if self.trace:
                    trace.append(jnp.copy(state[1]))  # the state itself is donated to the next step
                if progress is not None:
                    progress()
        return self.settled(state[0], problem), jnp.stack(trace, axis=1) if self.trace else None

    def result(self, best: Best, problem: Problem, trace: Any) -> AttackResult:
        """Turn the kept iterates into a result.

        Args:
            best: the kept iterates.
            problem: what was attacked.
            trace: losses, or None.

        Returns:
            The result.
        """
        return _summarise(best, problem.images, self.norm, trace)

    def search_on_device(self, target: Any, problem: Problem) -> tuple[Best, Any]:
        """Run the whole search as one device loop, traceable.

        Args:
            target: the target.
            problem: what is attacked.

        Returns:
            The best iterates, and the losses of shape ``(batch, evaluations)`` where the attack keeps a trace.
        """

        def one(state, number):
            restart, step = number // self.evaluations, number % self.evaluations
            state = self.advance(target, problem, state, restart, step)
            return state, state[1] if self.trace else None

        numbers = jnp.arange(self.searches * self.evaluations, dtype=jnp.uint32)
        state, trace = jax.lax.scan(one, self.blank(problem), numbers)
        return self.settled(state[0], problem), None if trace is None else trace.T

    def _on_device(self, target: Any, problem: Problem) -> AttackResult:
        best, trace = self.search_on_device(target, problem)
        return self.result(best, problem, trace)


def advance(attack: Any, target: Any, problem: Problem, state: Any, restart: Any, step: Any) -> Any:
    """Call ``attack.advance``: the one function that is compiled for a search.

    Args:
        attack: the attack.
        target: what is attacked.
        problem: images, references and keys.
        state: the search so far.
        restart: number of the restart, traced.
        step: number of the step, traced.

    Returns:
        The next state.
    """
    return attack.advance(target, problem, state, restart, step)


def distinct(state: Any) -> Any:
    """Give every leaf of a state memory of its own, since all of it is donated.

    Args:
        state: the state.

    Returns:
        A copy.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


@pytree_dataclass
class Judgement:
    """What counts as success: ``function(outputs, reference)``, or None for classification."""

    function: Any = static(None)


_summarise = jax.jit(summarise, static_argnums=(2,))
_jitted_on_device = jax.jit(lambda attack, target, problem: attack._on_device(target, problem))


def _canonical(leaf: Any) -> Any:
    """Return an array as the device would have it: without x64, 64 bits become 32."""
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return leaf if isinstance(leaf, jax.Array) else leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
