import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpurify.models import Repeat, Sequential, purifier
from jaxpurify.purifiers import BitDepth, GaussianSmoothing, Identity
from jaxpurify.testing import check_gradient, check_purifier, count_compilations

# purifiers that keep the contract


def uniform(keys, images):
    return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype))(keys)


@purifier
class Mix:
    """A random purifier in order."""

    random = True
    level: float = 0.25

    def __call__(self, images, key=None):
        level = jnp.asarray(self.level, images.dtype)
        return (1 - level) * images + level * uniform(key, images)


@purifier
class Average:
    """One mean image for the whole batch, declared."""

    couples_images = True

    def __call__(self, images, key=None):
        return (images + images.mean(axis=0, keepdims=True)) / 2


@purifier
class Halve:
    """Another size, declared, and the whole numbers of its fields are leaves."""

    changes_size = True
    steps: int = 8

    def __call__(self, images, key=None):
        return jnp.round(images[:, ::2, ::2] * jnp.asarray(self.steps, images.dtype)) / 8

    def surrogate(self):
        return Subsample()


@purifier
class Subsample:
    changes_size = True

    def __call__(self, images, key=None):
        return images[:, ::2, ::2]


@pytest.mark.parametrize(
    "good",
    [Mix(), Average(), Halve(), Sequential(Repeat(stage=BitDepth(bits=4)), Halve())],
    ids=["random", "coupling", "another size", "nested"],
)
def test_purifiers_in_order_pass(good):
    check_purifier(good, size=(7, 9))


def test_other_sizes_channels_and_keys_are_taken():
    check_purifier(Mix(), key=jax.random.key(5), size=(1, 1), channels=1)
    with pytest.raises(TypeError, match="raw uint32"):
        check_purifier(Mix(), key=jax.random.PRNGKey(0))


@pytest.mark.usefixtures("x64")
def test_registered_purifiers_keep_float64_where_it_is_on():
    for good in (Identity(), BitDepth(), GaussianSmoothing()):
        images = jax.ShapeDtypeStruct((2, 7, 9, 3), np.float64)
        assert jax.eval_shape(good, images).dtype == np.float64
    check_purifier(BitDepth(), size=(7, 9))


@pytest.mark.usefixtures("x64")
def test_a_purifier_that_loses_float64_is_found_where_it_is_on():
    single = broken(lambda self, x, key=None: x.astype(np.float32))
    with pytest.raises(AssertionError, match="keep the dtype of the images, float64, got float32"):
        check_purifier(single, size=(7, 9))


# purifiers that break one property each


def broken(call, **members):
    """A purifier of the given call and class attributes."""
    return purifier(type("Broken", (), {"__call__": call, **members}))()


class CheckedByInit:
    """Validates in ``__init__`` of the tree, as a dataclass with ``__post_init__`` and plain registration does."""

    is_purifier, random, couples_images, changes_size = True, False, False, False

    def __init__(self, sigma):
        if sigma < 0:
            raise ValueError("sigma must be at least 0")
        self.sigma = sigma

    def __call__(self, images, key=None):
        return images


jax.tree_util.register_pytree_node(
    CheckedByInit, lambda p: ((p.sigma,), None), lambda _, leaves: CheckedByInit(*leaves)
)


@purifier
class WordLeaf:
    boundary: str = "symmetric"

    def __call__(self, images, key=None):
        return images


@purifier
class Branches:
    """Looks at the value of a leaf, which nothing can under jit."""

    amount: float = 0.5

    def __call__(self, images, key=None):
        return images if self.amount > 0.1 else 1 - images


@purifier
class OneAtATime:
    """Works alone and under jit, but not where its leaf has an axis more."""

    amount: float = 0.5

    def __call__(self, images, key=None):
        number = jax.ShapeDtypeStruct((), images.dtype)
        return images * jax.pure_callback(np.asarray, number, jnp.asarray(self.amount, images.dtype))


def unseeded(self, images, key=None):
    return images * np.float32(np.random.default_rng().uniform(0.5, 1))


def first_key_for_all(self, images, key=None):
    return images * jax.random.uniform(key[0], images.shape[1:])[None]


def by_row(self, images, key=None):
    return images / (1 + jnp.arange(len(images), dtype=images.dtype))[:, None, None, None]


@jax.custom_vjp
def nan_behind(images):
    return images


nan_behind.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.nan,))

BROKEN = {
    "couples images": (
        lambda self, x, key=None: x * x.mean(axis=0, keepdims=True),
        {},
        "the same bits whatever other images pad the batch: set couples_images = True",
    ),
    "depends on the row": (by_row, {}, "the same bits in any row of the batch"),
    "depends on the size of the batch": (
        lambda self, x, key=None: x / len(x),
        {},
        "agree to 1e-05 between an image alone and in a batch",
    ),
    "changes the dtype": (
        lambda self, x, key=None: x.astype(jnp.bfloat16),
        {},
        "keep the dtype of the images, float32",
    ),
    "changes the channels": (
        lambda self, x, key=None: x.mean(axis=-1, keepdims=True),
        {"changes_size": True},
        "as many channels",
    ),
    "changes the size unsaid": (lambda self, x, key=None: x[:, 1:], {}, "set changes_size = True"),
    "ignores its key": (
        lambda self, x, key=None: x,
        {"random": True},
        "differ between keys, because it says that it is",
    ),
    "shares one key": (first_key_for_all, {"random": True}, "the same bits in any row"),
    "draws unseeded": (unseeded, {}, "the same bits for the same images and keys"),
    "leaves the range": (lambda self, x, key=None: 1.5 * x, {}, r"in \[0, 1\], got .* to 1.3.* for a textured image"),
    "is NaN at black": (
        lambda self, x, key=None: x / x.max(axis=(1, 2, 3), keepdims=True),
        {},
        "finite values, got NaN or infinity for a black image",
    ),
    "has a NaN gradient at black": (
        lambda self, x, key=None: jnp.sqrt(x),
        {},
        "finite gradient, got NaN or infinity at a black image",
    ),
    "has no gradient": (
        lambda self, x, key=None: jax.pure_callback(np.asarray, x, x, vmap_method="sequential"),
        {},
        "be differentiable, but ValueError was raised",
    ),
    "has a NaN surrogate": (
        lambda self, x, key=None: x,
        {"surrogate": lambda self: lambda images: nan_behind(images)},
        "finite gradient inside substitute",
    ),
    "has a surrogate of another shape": (
        lambda self, x, key=None: x,
        {"surrogate": lambda self: lambda images: images[:, 1:]},
        "work inside substitute, but ValueError was raised: a surrogate must return the shape",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_planted_fault_is_found_and_named(fault):
    call, members, sentence = BROKEN[fault]
    with pytest.raises(AssertionError, match=f"^Broken must .*({sentence})"):
        check_purifier(broken(call, **members), size=(7, 9))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (CheckedByInit(1.0), r"CheckedByInit must not validate when JAX unflattens it"),
        (WordLeaf(), r"WordLeaf must have numbers as leaves, got \.boundary = 'symmetric': declare the field static"),
        (
            Branches(),
            "Branches must work under jit, but ValueError was raised: Branches must be written in JAX",
        ),
        (OneAtATime(), "OneAtATime must work under vmap of its leaves, as sweep has it, but"),
        (jnp.tanh, "must be an instance of a class under @jaxpurify.purifier"),
    ],
    ids=["validates", "word", "branches", "sweep", "function"],
)
def test_a_class_that_is_no_proper_tree_is_named(bad, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_purifier(bad, size=(7, 9))


# gradients


@jax.custom_vjp
def wrong_square(x):
    return x * x


wrong_square.defvjp(lambda x: (x * x, x), lambda x, g: (2.001 * x * g,))


@pytest.mark.usefixtures("x64")
def test_a_right_gradient_passes_and_a_wrong_one_is_found():
    x = jnp.linspace(0.1, 1.0, 12).reshape(3, 4)
    check_gradient(lambda x: x * x, x)
    check_gradient(lambda tree: {"sum": tree["a"].sum() * tree["b"], "all": tree["a"]}, {"a": x, "b": 0.3})
    check_gradient(lambda x: 0 * x, x)
    with pytest.raises(AssertionError, match=r"slope along direction 0 is .*, expected .* from finite differences"):
        check_gradient(wrong_square, x)
    check_gradient(wrong_square, x, tolerance=1e-2)


def test_finite_differences_are_refused_in_float32():
    with pytest.raises(ValueError, match="needs float64 inputs"):
        check_gradient(jnp.sin, jnp.ones(3))


# compilations


def test_compilations_are_counted_by_name():
    @jax.jit
    def advance(x, y):
        return x * y

    with count_compilations() as compilations:
        for size, number in ((3, 1.0), (3, 2.0), (4, 1.0), (4, 3.0)):
            advance(np.ones(size, np.float32), np.float32(number))
        assert compilations.count("advance") == 2
        assert compilations.count("other") == 0
    assert compilations.count() >= 2
    assert compilations.names.count("advance") == 2
    advance(np.ones(5, np.float32), np.float32(1.0))
    assert compilations.count("advance") == 2


def test_counts_nest_and_survive_errors():
    @jax.jit
    def inner(x):
        return x + x

    with count_compilations() as outer:
        with contextlib.suppress(ZeroDivisionError), count_compilations() as within:
            inner(np.ones(2, np.float32))
            _ = 1 / 0
        inner(np.ones(3, np.float32))
    assert (outer.count("inner"), within.count("inner")) == (2, 1)


def test_a_program_from_the_cache_on_disk_counts_too(tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    def program(x):
        return x @ x + 1

    options = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        for _ in range(2):
            with count_compilations() as compilations:
                jax.jit(program)(np.ones((3, 3), np.float32))
            assert compilations.count("program") == 1
            assert list(tmp_path.iterdir())
            jax.clear_caches()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
