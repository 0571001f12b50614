"""Where something ran: versions and devices, for the records of a run."""

import platform

import jax


def environment() -> dict[str, str]:
    """Return versions and devices, for ``config.json``.

    Returns:
        Names to versions.
    """
    from importlib.metadata import PackageNotFoundError, version

    names = ("jaxpurify", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    device = jax.local_devices()[0]
    found |= {"python": platform.python_version(), "machine": platform.machine(), "platform": platform.platform()}
    return found | {"device": f"{len(jax.local_devices())} × {device.device_kind} ({device.platform})"}
