"""How something is trained, whatever it is: batch, optimiser, schedule, precision, and what is kept."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from jaxpurify.checks import check_count

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Say how a task is trained.

    Args:
        batch_size: examples a step, over all devices and accumulated parts.
        learning_rate: largest step size of AdamW, at the end of the warm-up.
        schedule: how the step size falls after that: ``"cosine"``, ``"linear"`` or ``"constant"``.
        warmup: share of the steps during which the step size rises to the largest.
        final: step size at the end, as a share of the largest.
        weight_decay: of AdamW.
        clip: largest global norm of a gradient; 0 does not clip.
        average: decay of the exponential moving average of the weights, which is what is scored and kept; 0 keeps the
            last weights. At the beginning the average follows faster: step t decays by at most (1 + t) / (10 + t).
        accumulate: parts that a batch is computed in, one after the other, for batches larger than the memory.
        precision: ``"float32"``, or ``"bfloat16"`` for weights and activations during a step; weights, their average,
            the optimiser and the loss stay float32.
        held_out: share of the examples that are never trained on and that the network is scored on; above 0, one at
            least where there are two.
        log_every: steps from one line of ``metrics.jsonl`` to the next.
        score_every: steps from one score on what is held out, and one figure of samples, to the next.
        save_every: steps from one checkpoint to the next.
        keep: how many of the last checkpoints are kept; the best one of those saved at a step that was scored (a
            multiple of both numbers above) is kept besides.

    Raises:
        ValueError: if a number is out of its domain.

    Source: our choice, after Lim et al. 2017 and Loshchilov and Hutter 2019.
    """

    batch_size: int = 16
    learning_rate: float = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.02
    final: float = 0.01
    weight_decay: float = 0.0
    clip: float = 1.0
    average: float = 0.999
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    held_out: float = 0.05
    log_every: int = 20
    score_every: int = 500
    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "log_every", "score_every", "save_every", "keep"):
            object.__setattr__(self, name, check_count(getattr(self, name), name=name))
        for name in ("warmup", "final", "held_out", "average"):
            if not 0 <= getattr(self, name) < 1 and (name, getattr(self, name)) != ("final", 1):
                raise ValueError(f"{name} must be a share of at least 0 and below 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be a finite number above 0, got {self.learning_rate}")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide the batch of {self.batch_size}, got {self.accumulate}")

    def step_sizes(self, steps: int) -> optax.Schedule:
        """Return the step size as a function of the step.

        Args:
            steps: how many there are.

        Returns:
            An Optax schedule.
        """
        rising = max(1, round(self.warmup * steps))
        falling = max(1, steps - rising)
        after = {
            "cosine": optax.cosine_decay_schedule(self.learning_rate, falling, alpha=self.final),
            "linear": optax.linear_schedule(self.learning_rate, self.final * self.learning_rate, falling),
            "constant": optax.constant_schedule(self.learning_rate),
        }[self.schedule]
        before = optax.linear_schedule(self.learning_rate / (rising + 1), self.learning_rate, rising)
        return optax.join_schedules([before, after], [rising])

    def optimiser(self, steps: int) -> optax.GradientTransformation:
        """Return the optimiser.

        Args:
            steps: how many steps there are.

        Returns:
            Clipping, then AdamW with the schedule.
        """
        clipping = (optax.clip_by_global_norm(self.clip),) if self.clip else ()
        return optax.chain(*clipping, optax.adamw(self.step_sizes(steps), weight_decay=self.weight_decay))
