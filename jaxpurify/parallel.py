"""Batches over devices: every device runs the same program on its own micro-batch, so results do not change."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def resolve(devices: str | int | Sequence[Any] | None) -> tuple[Any, ...]:
    """Return the devices to use.

    Args:
        devices: None (the default device alone), ``"all"``, a number of devices, or devices.

    Returns:
        At least one device.

    Raises:
        ValueError: if there are not as many, or the word is unknown.
    """
    local = jax.local_devices()
    if devices is None:
        chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
        return (jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen or local[0],)
    if devices == "all":
        return tuple(local)
    if isinstance(devices, int | np.integer) and not isinstance(devices, bool):
        if not 1 <= devices <= len(local):
            raise ValueError(f"devices must be from 1 to the {len(local)} at hand, got {devices}")
        return tuple(local[:devices])
    if isinstance(devices, str | bool) or not devices:
        raise ValueError(f'devices must be None, "all", a number or a sequence of devices, got {devices!r}')
    return tuple(devices)


class Placement:
    """Where per-image arrays live and how functions of them are compiled.

    Args:
        devices: what ``resolve`` returned. Made by ``placement``, which returns the same object for the same devices.
    """

    def __init__(self, devices: tuple[Any, ...]):
        self.devices = devices
        self.mesh = Mesh(np.array(devices), ("images",)) if len(devices) > 1 else None
        self._compiled: dict[Any, Callable] = {}

    @property
    def count(self) -> int:
        """Number of devices."""
        return len(self.devices)

    def put(self, tree: Any) -> Any:
        """Place arrays with a leading batch axis, divided over the devices.

        Args:
            tree: arrays whose leading axes are a multiple of the number of devices.

        Returns:
            The same tree on the devices.
        """
        if self.mesh is None:
            return jax.device_put(tree, self.devices[0])
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec("images")))

    def everywhere(self, tree: Any) -> Any:
        """Place arrays without a batch axis, such as weights, whole on every device: once, and not at each call.

        Args:
            tree: any pytree of numbers.

        Returns:
            The same tree on the devices.
        """
        if self.mesh is None:
            return jax.device_put(tree, self.devices[0])
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def compile(self, function: Callable, *, per_image: tuple[bool, ...], donate: tuple[int, ...] = ()) -> Callable:
        """Jit a function once, every device running it on its share of the images.

        Args:
            function: of positional arguments, returning trees whose leaves have a leading batch axis.
            per_image: for each argument, whether it has a leading batch axis to divide; others go to all devices whole.
            donate: positions of the arguments whose memory may be reused.

        Returns:
            The jitted function, the same object at every call.
        """
        known = (function, per_image, donate)
        if known not in self._compiled:
            run = function
            if self.mesh is not None:
                whole, divided = PartitionSpec(), PartitionSpec("images")
                specs = tuple(divided if own else whole for own in per_image)
                run = jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=divided, check_vma=False)
                run = functools.wraps(function)(run)
            self._compiled[known] = jax.jit(run, donate_argnums=donate)
        return self._compiled[known]


@functools.lru_cache
def _placement(devices: tuple[Any, ...]) -> Placement:
    return Placement(devices)


def placement(devices: str | int | Sequence[Any] | None = None) -> Placement:
    """Return the placement on the given devices.

    Args:
        devices: None (the default device alone), ``"all"``, a number of devices, or devices.

    Returns:
        One object for the same devices, so that compiled functions are shared.
    """
    return _placement(resolve(devices))
