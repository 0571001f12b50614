"""Strict settings for every test: they must come before jaxpurify is imported and before JAX starts its backend."""

import contextlib
import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping


def compile_quickly() -> None:
    """Have XLA generate plain code on the CPU: nearly all of the suite's time is XLA's, and images here are small.

    The flags are read when the backend starts, and processes that tests start inherit them. XLA aborts on a flag that
    it does not know, and the second is a debugging option that may go, so it is asked for only where it was tried.
    Users' programs are compiled at XLA's defaults: so are slow tests where JAXPURIFY_XLA_DEFAULTS is set, as by
    `make slow`, and benchmarks.
    """
    if os.environ.get("JAXPURIFY_XLA_DEFAULTS"):
        return
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    if (0, 10) <= tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 11):
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in flags if flag.split("=")[0] not in given)]).strip()


compile_quickly()

# PyTorch's and NumPy's threads wait for each other busily: beside a second worker, one thread is many times as fast.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shapes and types in annotations are checked at every call.
jaxtyping.install_import_hook("jaxpurify", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config):
    """Keep compiled programs in pytest's cache folder: a second run of the suite takes a third of the time."""
    cache = getattr(config, "cache", None)
    if cache is not None and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


# The files that take longest: what begins last should be short, or one worker ends long after the others.
LONG = (
    "test_readme.py",
    "attacks/test_minimal_norm.py",
    "reports/test_soundness_evaluate.py",
    "reports/test_front_doors.py",
    "purifiers/test_registered.py",
    "reports/test_numerics.py",
    "attacks/test_autoattack.py",
    "attacks/test_apgd.py",
    "reports/test_soundness.py",
    "purifiers/test_windows.py",
    "evaluation/test_evaluate.py",
    "attacks/test_transferable.py",
    "attacks/test_hop_skip_jump.py",
    "training/test_loop.py",
    "reports/test_independence.py",
    "reports/test_half_precision.py",
    "test_interop.py",
    "experiments/test_training_free.py",
    "cli/test_attack.py",
    "attacks/test_gradient.py",
    "attacks/test_drivers.py",
    "networks/test_borders.py",
    "test_ensembles.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, each whole."""
    places = {name: place for place, name in enumerate(LONG)}

    def place(item):
        name = item.nodeid.partition("::")[0].removeprefix("tests/")
        return places.get(name, len(places))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Look for garbage seldom: tracing makes many small objects, beside the very many that stay to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


class Compiled:
    """The programs that XLA compiled in this process, or was given by the cache on disk, and the time that it took."""

    def __init__(self):
        self.programs, self.seconds, self.forgotten = 0, 0.0, 0

    def listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs, self.seconds = self.programs + 1, self.seconds + duration_secs


COMPILED = Compiled()
jax.monitoring.register_event_duration_secs_listener(COMPILED.listen)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's count to the process that started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compiled"] = COMPILED.programs, COMPILED.seconds


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Add up what the workers compiled."""
    programs, seconds = getattr(node, "workeroutput", {}).get("compiled", (0, 0.0))
    COMPILED.programs, COMPILED.seconds = COMPILED.programs + programs, COMPILED.seconds + seconds


def pytest_terminal_summary(terminalreporter) -> None:
    """Say what was compiled, which is most of the time that tests take."""
    terminalreporter.write_line(f"XLA compiled {COMPILED.programs:,} programs in {COMPILED.seconds:,.0f} s")


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Free the compiled programs now and then, after a file of tests: all together take many gigabytes.

    Not after each, since a quarter of a file's programs are those of files before it.
    """
    yield
    if COMPILED.programs - COMPILED.forgotten > 1000:
        jax.clear_caches()
        COMPILED.forgotten = COMPILED.programs


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test, such as one of gradients against finite differences."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def lenient() -> Iterator[None]:
    """JAX's ordinary promotion of dtypes and ranks, which the training steps of Optax and Flax need."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and weights, which is not part of the project."""
    folder = os.environ.get("JAXPURIFY_REAL_DATA")
    if not folder:
        pytest.skip("JAXPURIFY_REAL_DATA does not name a folder of real data and weights")
    if not Path(folder).is_dir():
        pytest.skip(f"JAXPURIFY_REAL_DATA names {folder}, which is no folder")
    return Path(folder)
