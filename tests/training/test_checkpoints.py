"""Checkpoints: whole or not at all, whatever happens while they are written."""

import contextlib
import json
import re
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.training.checkpoints import Checkpoints

WEIGHTS = np.random.default_rng(0).normal(size=100_000).astype(np.float32)


def state(step, *, dtype=jnp.float32):
    """A step, a nested tree, a key of its own and weights that no compression makes smaller."""
    return {
        "step": jnp.uint32(step),
        "nested": (jnp.arange(3), [jnp.full((), step, jnp.bfloat16)]),
        "weights": jnp.asarray(WEIGHTS + step).astype(dtype),
        "key": jax.random.key(step),
    }


def bits(tree):
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()
        for leaf in jax.tree.leaves(tree)
    ]


@contextlib.contextmanager
def opened(folder, *, keep=2, greater_is_better=True):
    checkpoints = Checkpoints(folder, keep=keep, metric="psnr", greater_is_better=greater_is_better)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


@contextlib.contextmanager
def files_of_at_most(size):
    """As on a disk that is full: what is longer cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    measures = [{"loss": 0.1, "psnr": 1 / 3}]
    with opened(tmp_path / "new") as checkpoints:
        assert (checkpoints.last, checkpoints.best, checkpoints.waiting()) == (None, None, [])
        checkpoints.save(5, state(5), None, waiting=measures)
    with opened(tmp_path / "new") as checkpoints:
        assert checkpoints.last == 5
        assert checkpoints.waiting() == measures
        restored = checkpoints.restore(state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(5))
    assert bits(restored) == bits(state(5))


@pytest.mark.parametrize("better", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_last_few_and_the_best_are_kept_also_by_a_run_that_goes_on(tmp_path, better):
    scores = [20.0, 30.0, float("nan"), 10.0, 25.0, 12.0]
    best = 2 if better else 4
    for step, score in enumerate(scores, start=1):  # a manager each: what is best is read from the folder
        with opened(tmp_path, greater_is_better=better) as checkpoints:
            checkpoints.save(step, state(step), {"psnr": score, "loss": 0.0})
    assert names(tmp_path) == sorted({"5", "6", str(best)})
    with opened(tmp_path, greater_is_better=better) as checkpoints:
        assert checkpoints.best == best
        assert checkpoints.last == 6
        assert bits(checkpoints.restore(state(0), step=best)) == bits(state(best))


@pytest.mark.slow
def test_where_nothing_was_scored_the_last_is_the_best(tmp_path):
    with opened(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), None)
        assert checkpoints.best == 3
    assert names(tmp_path) == ["3"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), None)
        with files_of_at_most(100_000), pytest.raises(OSError, match=r"the checkpoint of step 2 .*: the checkpoint"):
            checkpoints.save(2, state(2), None)
    assert names(tmp_path) == ["1"]
    with opened(tmp_path) as checkpoints:
        assert checkpoints.last == 1
        assert bits(checkpoints.restore(state(0))) == bits(state(1))
        checkpoints.save(2, state(2), None)
        assert bits(checkpoints.restore(state(0))) == bits(state(2))


def test_a_full_disk_at_the_first_checkpoint_is_one_sentence(tmp_path):
    with (
        opened(tmp_path) as checkpoints,
        files_of_at_most(100_000),
        pytest.raises(OSError, match=r"no earlier") as e,
    ):
        checkpoints.save(1, state(1), None)
    sentence = str(e.value)
    assert re.fullmatch(
        r"cannot write the checkpoint of step 1 to \S+ \(.+\): there is no earlier one; make room and give the same "
        r"command again",
        sentence,
    )
    assert "\n" not in sentence
    assert names(tmp_path) == []


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), None)
    half = tmp_path / "2.orbax-checkpoint-tmp"
    (half / "default").mkdir(parents=True)
    (half / "default" / "part").write_bytes(b"half")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.last == 1
        checkpoints.save(2, state(2), None)
        assert bits(checkpoints.restore(state(0))) == bits(state(2))
    assert names(tmp_path) == ["1", "2"]


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "damage",
    [pytest.param("cut off", marks=pytest.mark.slow), "changed", pytest.param("emptied", marks=pytest.mark.slow)],
)
def test_a_damaged_checkpoint_is_one_sentence_that_says_what_to_do(tmp_path, damage):
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), None)
    path = largest(tmp_path / "2")
    content = path.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes(255 - byte for byte in content[middle : middle + 64]) + content[middle + 64 :]
    path.write_bytes({"cut off": content[:middle], "changed": changed, "emptied": b""}[damage])
    with opened(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"step 2 in .* cannot be read .*: remove the folder .*/2 to go") as error:
            checkpoints.restore(state(0))
        assert "\n" not in str(error.value)
    for file in sorted((tmp_path / "2").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (tmp_path / "2").rmdir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.last == 1
        assert bits(checkpoints.restore(state(0))) == bits(state(1))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), None)
        other = state(0) | {"weights": jnp.zeros(7)}
        with pytest.raises(ValueError, match=r"of another network|cannot be read"):
            checkpoints.restore(other)
        with pytest.raises(ValueError, match=r"cannot be read"):
            checkpoints.restore(state(0) | {"more": jnp.zeros(7)})


def test_scores_stand_beside_the_weights(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {"psnr": 31.5, "loss": 0.25})
    found = [json.loads(path.read_text()) for path in (tmp_path / "1" / "metrics").rglob("metrics")]
    assert found == [{"psnr": 31.5, "loss": 0.25}]
