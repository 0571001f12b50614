"""HopSkipJump: the nearest image across the boundary, found by asking for decisions alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv

from jaxpurify import keys as _keys
from jaxpurify.attacks import losses
from jaxpurify.attacks.checks import check_counts
from jaxpurify.attacks.draws import draws_of
from jaxpurify.attacks.minimal_norm import SHARE, MinimalNormAttack
from jaxpurify.attacks.norms import ball, length
from jaxpurify.attacks.queries import InChunks, check_frozen, chunk_of
from jaxpurify.attacks.result import Answer, Best, Problem, blank_best
from jaxpurify.gradients import Expectation
from jaxpurify.models import attribute
from jaxpurify.precision import divided
from jaxpurify.pytrees import PerImage, concrete, pytree_dataclass, static

# What an image asks about next.
CLEAN, START, BISECT, ESTIMATE, STEP, DONE = range(6)
HALVINGS = 20
# Once an image is found, other starts are tried at this share of its distance.
NEARER = 0.9
# The largest radius of the samples, as a share of the distance.
WIDEST = 0.5


class Search(NamedTuple):
    """Where the search of each image stands; within ``_query`` and ``_learn``, that of one image.

    Attributes:
        phase: what it asks about next.
        iteration: number of the iteration.
        asked: questions asked in this phase.
        agreed: of the samples of this iteration, those that succeed less those that do not.
        low: the largest share (in the linf norm, distance) known not to succeed.
        high: the smallest share known to succeed.
        nearest: distance of the latest point at the boundary.
        spread: by what the radius of the samples is multiplied.
        point: an image that succeeds: while bisecting the far end, then the point at the boundary.
        total: sum of the samples, each with the sign of its decision; then the direction of the step.
        drift: sum of the samples.
    """

    phase: Any
    iteration: Any
    asked: Any
    agreed: Any
    low: Any
    high: Any
    nearest: Any
    spread: Any
    point: Any
    total: Any
    drift: Any


class State(NamedTuple):
    """The nearest image so far, minus its distance, and the search; every leaf with a leading batch axis."""

    best: Best
    loss: Any
    search: Search


@pytree_dataclass
class HopSkipJump(InChunks, MinimalNormAttack):
    """Estimate the direction across the boundary from decisions near it, step, and return to the boundary.

    Every image is searched at its own pace: each query of the model asks of each image what it needs next.

    Args:
        epsilon: the largest distance that counts, or None for the nearest image at any distance.
        starts: images, shape ``(starts, height, width, channel)``, that are tried in turn; None for
            uniform noise. A targeted attack needs some of the target classes.
        eot: the draws of a random target, the same at every query, of which three in four must agree on a success; its
            ``randomness`` must be ``"frozen"``; None for one draw.
        norm: ``"l2"`` or ``"linf"``.
        queries: evaluations of the model, an image and restart; every draw of a random target counts as one.
        samples: decisions of the first estimate; that of iteration t has √t times as many.
        most_samples: the largest number of decisions of an estimate.
        tries: starts from uniform noise, of which the nearest image is the first of the search.
        chunk: queries in one compiled call; results do not depend on it.
        restarts: independent searches; the nearest image of all is kept.
        success: as for the gradient attacks.
        trace: whether the result keeps the loss, minus the distance, at the end of each chunk.

    Source: Chen, Jordan and Wainwright 2020 (arXiv 1904.02144), algorithm 2. The precision of the bisection and the
    radius of the samples are that paper's, but for the l2 length of the perturbation that gives the radius in the linf
    norm too: a share of its largest value alone is lost in the rounding of single precision. Also our choice: the
    nearest of several starts, and samples four times as wide after an iteration that came no nearer, without which a
    defence that rounds its images hides the direction.
    """

    epsilon: PerImage | None = None
    starts: Any = None
    eot: Expectation | None = Expectation(samples=20, randomness="frozen")
    norm: str = static("l2")
    queries: int = static(5000)
    samples: int = static(100)
    most_samples: int = static(10_000)
    tries: int = static(25)
    chunk: int = static(100)
    restarts: int = static(1)
    success: Callable | None = static(None)
    trace: bool = static(False)
    uses_gradient = False
    averages = True
    loss = "margin"

    def check(self):
        """Refuse other norms, counts below one, fresh draws and starts that are no images."""
        super().check()
        check_counts(self, "queries", "samples", "most_samples", "tries", "chunk")
        check_frozen(self)
        if self.starts is not None and concrete(self.starts) and np.ndim(self.starts) not in (0, 4):
            raise ValueError(
                f"starts must be images of shape (starts, height, width, channel), got shape {np.shape(self.starts)}"
            )

    def prepare(self, target: Any, images: Any, labels: Any, key: Any, targets: Any) -> Problem:
        """Check the arguments of a call; a targeted one needs starts."""
        if targets is not None and self.starts is None:
            raise ValueError(
                "HopSkipJump reaches a target class from an image of that class only, got targets without starts: "
                "pass starts=images of the target classes"
            )
        if self.starts is not None and self.starts.shape[1:] != images.shape[1:]:
            raise ValueError(f"starts must be images of shape {images.shape[1:]}, got {self.starts.shape[1:]}")
        return super().prepare(target, images, labels, key, targets)

    def blank(self, problem: Problem) -> State:
        """Return a state of the right structure."""
        images = problem.images
        count, zeros = jnp.zeros(images.shape[:1], jnp.int32), jnp.zeros(images.shape[:1], images.dtype)
        blank = jnp.zeros_like(images)
        search = Search(*(count,) * 4, *(zeros,) * 3, jnp.ones_like(zeros), *(blank,) * 3)
        return State(blank_best(images), zeros, search)

    def advance(self, target: Any, problem: Problem, state: State, restart: Any, step: Any) -> State:
        """Ask one chunk of queries."""
        clean, random, cost = problem.images, attribute(target, "random"), draws_of(self, target)
        chunk = chunk_of(step, rounds=self.queries // cost, chunk=self.chunk, cost=cost)
        keys = _keys.stream(problem.keys, "search", restart=restart)
        draws = _keys.stream(problem.keys, "search", draw=1)

        def query(number, carried):
            best, search = carried
            noise = _noise(_keys.fold(keys, chunk.first + number + 1), clean)
            images = jax.vmap(self._query)(search, clean, noise)
            answer = self._decide(target, problem, images, draws)
            active = search.phase != DONE
            answer = answer._replace(success=answer.success & active, finite=answer.finite | ~active)
            spent = jnp.where(active, cost, 0)
            best = self.keep(best, problem, images, answer, random=random, forwards=spent)
            return best, jax.vmap(self._learn)(search, clean, images, answer.success)

        search = jax.lax.cond(step == 0, lambda: self.blank(problem).search, lambda: state.search)
        best, search = chunk.repeat(target, query, (state.best, search))
        return State(best, best.loss, search)

    def _decide(self, target: Any, problem: Problem, images: Any, keys: Any) -> Answer:
        """Ask for decisions, of a random target for those on which most of the draws agree."""
        if not attribute(target, "random") or self.eot is None:
            return self.answer(target(images, keys if attribute(target, "random") else None), problem)

        def succeeds(outputs):
            return losses.succeeded(self.success, outputs, problem.labels, problem.targets).astype(images.dtype)

        share, outputs = self.eot(target, images, keys, succeeds)
        return self.answer(outputs, problem)._replace(success=share >= SHARE)

    def _query(self, search: Search, clean: Any, noise: Any) -> Any:
        """Return what one image asks about; noise is uniform in [0, 1]."""
        start = noise if self.starts is None else jnp.asarray(self.starts, clean.dtype)[search.asked % len(self.starts)]
        share = NEARER * search.high * self._share(search.point, start, clean)
        start = jnp.where(search.high > 0, self._between(clean, start, jnp.minimum(share, 1)), start)
        sample = search.point + self._radius(search, clean) * self._direction(noise)
        step = search.point + self._step(search, clean) * search.total
        middle = self._between(clean, search.point, (search.low + search.high) / 2)
        asked = [clean, start, middle, sample, step, clean]
        return jnp.clip(jax.lax.select_n(search.phase, *asked), 0, 1)

    def _learn(self, search: Search, clean: Any, asked: Any, success: Any) -> Search:
        """Return where one image's search stands after the answer."""
        after = [
            search._replace(phase=jnp.where(success, jnp.int32(DONE), jnp.int32(START))),
            self._after_start(search, clean, asked, success),
            self._after_bisection(search, clean, success),
            self._after_sample(search, clean, asked, success),
            self._after_step(search, clean, asked, success),
            search,
        ]
        return jax.tree.map(lambda *leaves: jax.lax.select_n(search.phase, *leaves), *after)

    def _after_start(self, search, clean, asked, success):
        search = search._replace(asked=search.asked + 1)
        failed = _choose((search.asked >= self._tries) & (search.high > 0), self._estimating(search), search)
        if self.starts is not None:
            nothing = (search.asked >= self._tries) & (search.high == 0)
            failed = failed._replace(phase=jnp.where(nothing, DONE, failed.phase))
        return _choose(success, self._bisecting(search, clean, asked), failed)

    def _after_bisection(self, search, clean, success):
        middle = (search.low + search.high) / 2
        stuck = (middle <= search.low) | (middle >= search.high)  # neighbouring numbers
        low, high = jnp.where(success, search.low, middle), jnp.where(success, middle, search.high)
        point = self._between(clean, search.point, high)
        search = search._replace(low=low, high=high)
        nearest = ball(self.norm).size(point - clean)
        nearer = (nearest < search.nearest) | (search.iteration == 0)
        found = self._spread(search, nearer)._replace(
            point=jnp.clip(point, 0, 1), high=self._whole(point, clean), nearest=nearest
        )
        trying = (search.iteration == 0) & (search.asked < self._tries)
        found = _choose(trying, found._replace(phase=jnp.asarray(START, jnp.int32)), self._estimating(found))
        return _choose(stuck | (high - low <= self._precision(search, clean)), found, search)

    def _after_sample(self, search, clean, asked, success):
        sign = jnp.where(success, jnp.int32(1), jnp.int32(-1))
        sample = divided(asked - search.point, self._radius(search, clean))
        search = search._replace(
            asked=search.asked + 1,
            agreed=search.agreed + sign,
            total=search.total + sign.astype(sample.dtype) * sample,
            drift=search.drift + sample,
        )
        mean = search.agreed.astype(sample.dtype) / search.asked.astype(sample.dtype)
        # Where all decisions agree there is nothing to compare with, and their mean itself is the estimate.
        estimate = search.total - jnp.where(jnp.abs(mean) == 1, 0, mean) * search.drift
        stepping = search._replace(phase=jnp.asarray(STEP, jnp.int32), asked=jnp.zeros_like(search.asked))
        stepping = stepping._replace(total=ball(self.norm).direction(estimate))
        wanted = jnp.sqrt((search.iteration + 1).astype(sample.dtype)) * self.samples
        enough = search.asked >= jnp.minimum(jnp.floor(wanted), self.most_samples).astype(jnp.int32)
        return _choose(enough, stepping, search)

    def _after_step(self, search, clean, asked, success):
        later = search._replace(iteration=search.iteration + 1)
        shorter = search._replace(asked=search.asked + 1)
        failed = _choose(shorter.asked >= HALVINGS, self._estimating(self._spread(later, False)), shorter)
        return _choose(success, self._bisecting(later, clean, asked), failed)

    def _spread(self, search, nearer):
        return search._replace(spread=jnp.where(nearer, jnp.maximum(search.spread / 2, 1), search.spread * 4))

    def _bisecting(self, search, clean, end):
        high = self._whole(end, clean)
        return search._replace(phase=jnp.asarray(BISECT, jnp.int32), low=jnp.zeros_like(high), high=high, point=end)

    def _estimating(self, search):
        zero, blank = jnp.zeros_like(search.asked), jnp.zeros_like(search.point)
        phase = jnp.asarray(ESTIMATE, jnp.int32)
        return search._replace(phase=phase, asked=zero, agreed=zero, total=blank, drift=blank)

    @property
    def _tries(self) -> int:
        return self.tries if self.starts is None else len(self.starts)

    def _whole(self, point, clean):
        """Return the share at which ``_between`` is the point itself."""
        return jnp.ones((), clean.dtype) if self.norm == "l2" else ball(self.norm).size(point - clean)

    def _share(self, point, start, clean):
        """Return by what to multiply a share, so that it means the same distance towards a start as to the point."""
        if self.norm == "linf":
            return 1
        return divided(length(point - clean), length(start - clean))

    def _between(self, clean, point, share):
        if self.norm == "l2":
            return clean + share * (point - clean)
        return clean + jnp.clip(point - clean, -share, share)

    def _precision(self, search, clean):
        if self.norm == "l2":
            return clean.size**-1.5
        return clean.size**-2.0 * ball(self.norm).size(search.point - clean)

    def _radius(self, search, clean):
        share = jnp.minimum(search.spread / clean.size, WIDEST)
        return jnp.where(search.iteration == 0, 0.1, share * length(search.point - clean))

    def _step(self, search, clean):
        distance = ball(self.norm).size(search.point - clean)
        number = (search.iteration + 1).astype(clean.dtype)
        return distance / jnp.sqrt(number) * 0.5 ** search.asked.astype(clean.dtype)

    def _direction(self, noise):
        """Turn uniform noise into a direction of length one, normal in the l2 norm and uniform in the linf norm."""
        centred = 2 * noise - 1
        if self.norm == "l2":
            centred = math.sqrt(2) * erfinv(jnp.clip(centred, -1 + 1e-6, 1 - 1e-6))
        return ball("l2").direction(centred)


def _noise(keys: Any, images: Any) -> Any:
    return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype))(keys)


def _choose(condition: Any, new: Search, old: Search) -> Search:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new, old)
