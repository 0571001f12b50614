import json
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxpurify.networks import weights
from jaxpurify.networks.convolution import Conv

TABLE = {
    "features.weight": weights.Entry("conv.kernel", weights.CONVOLUTION),
    "features.bias": weights.Entry("conv.bias"),
    "norm.weight": weights.Entry("norm.scale"),
    "norm.bias": weights.Entry("norm.bias"),
    "norm.running_mean": weights.Entry("norm.mean"),
    "norm.running_var": weights.Entry("norm.var"),
    "head.weight": weights.Entry("head.kernel", weights.flattened(4, 2, 3)),
    "head.bias": weights.Entry("head.bias"),
}
SHAPES = {
    "features.weight": (4, 3, 5, 2),
    "features.bias": (4,),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "norm.running_mean": (4,),
    "norm.running_var": (4,),
    "head.weight": (7, 24),
    "head.bias": (7,),
}


class Small(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = Conv(3, 4, (5, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(24, 7, rngs=rngs)


@pytest.fixture
def module(filled):
    return filled(Small)


@pytest.fixture
def state():
    random = np.random.default_rng(1)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def contents(module):
    return {
        ".".join(map(str, path)): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(nnx.state(module))
    }


def test_load_puts_every_weight_where_the_table_says(module, state):
    weights.load(module, state, table=TABLE)
    loaded = contents(module)
    assert loaded["conv.kernel"][4, 1, 2, 3] == state["features.weight"][3, 2, 4, 1]
    np.testing.assert_array_equal(loaded["norm.mean"], state["norm.running_mean"])
    np.testing.assert_array_equal(loaded["norm.var"], state["norm.running_var"])
    np.testing.assert_array_equal(loaded["norm.scale"], state["norm.weight"])


def test_a_beginning_that_all_names_share_is_taken_off_where_the_rest_fits(module, state):
    weights.load(module, {f"module.net.{name}": array for name, array in state.items()}, table=TABLE)
    np.testing.assert_array_equal(contents(module)["norm.scale"], state["norm.weight"])
    half = {("module." if number % 2 else "") + name: array for number, (name, array) in enumerate(state.items())}
    with pytest.raises(ValueError, match=r"missing: .*surplus: module\."):
        weights.load(module, half, table=TABLE)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b", "a.c"], ["", "a", "a."]),
        (["ab", "abc"], ["", "a"]),
        (["x"], [""]),
        (["a", "b"], [""]),
        ([], [""]),
        (["", "a"], [""]),
    ],
)
def test_beginnings_are_those_of_all_names_and_leave_something_of_each(names, expected):
    assert weights.prefixes(names) == expected


def test_flattened_follows_channels_first(module, state):
    weights.load(module, state, table=TABLE)
    features = np.random.default_rng(2).normal(size=(5, 4, 2, 3)).astype(np.float32)
    theirs = features.reshape(5, -1) @ state["head.weight"].T
    ours = features.transpose(0, 2, 3, 1).reshape(5, -1) @ contents(module)["head.kernel"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [weights.CONVOLUTION, weights.LINEAR, weights.flattened(5, 2, 3)])
def test_layouts_decode_what_they_encode(layout):
    shape = (2, 3, 4, 5) if layout is weights.CONVOLUTION else (30, 4)
    ours = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(layout.decode(layout.encode(ours)), ours)


def test_one_message_names_what_is_missing_surplus_and_misshapen(module, state):
    before = contents(module)
    del state["norm.bias"], state["head.bias"]
    state["extra.weight"] = state["features.bias"]
    state["features.weight"] = state["features.weight"].transpose(2, 3, 1, 0)
    with pytest.raises(ValueError, match="do not fit Small") as raised:
        weights.load(module, state, table=TABLE)
    message = str(raised.value)
    assert "missing: norm.bias, head.bias" in message
    assert "surplus: extra.weight" in message
    assert "of another shape: features.weight (expected (4, 3, 5, 2), got (5, 2, 3, 4))" in message
    assert "\n" not in message
    for path, array in contents(module).items():
        np.testing.assert_array_equal(array, before[path])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_before_any_is_loaded(module, state, value):
    before = contents(module)
    state["head.bias"][3] = value
    with pytest.raises(ValueError, match=r"NaN or infinity in head\.bias"):
        weights.load(module, state, table=TABLE)
    for path, array in contents(module).items():
        np.testing.assert_array_equal(array, before[path])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_widths_become_float32(module, state, dtype, tmp_path):
    short = {name: array.astype(dtype) for name, array in state.items()}
    path = tmp_path / "short.safetensors"
    path.write_bytes(serialised(short))
    weights.load(module, weights.read(path), table=TABLE)
    loaded = contents(module)
    assert {array.dtype for array in loaded.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(loaded["head.bias"], short["head.bias"].astype(np.float32))


def serialised(state):
    """A safetensors file by its specification: safetensors itself writes no bfloat16 from NumPy."""
    names = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}
    header, data = {}, b""
    for name, array in state.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_counters_of_batches_are_ignored(module, state, tmp_path):
    save_file(state | {"norm.num_batches_tracked": np.array(3)}, tmp_path / "counted.safetensors")
    weights.load(module, weights.read(tmp_path / "counted.safetensors"), table=TABLE)
    assert contents(module)["conv.bias"][1] == state["features.bias"][1]


def test_saved_weights_load_again(module, filled, tmp_path):
    path = tmp_path / "own.safetensors"
    weights.save(module, path, metadata={"architecture": "small"})
    other = filled(Small, seed=5)
    weights.load(other, weights.read(path))
    for name, array in contents(module).items():
        np.testing.assert_array_equal(contents(other)[name], array)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"architecture": "small"}


def test_weights_load_into_an_abstract_module(state):
    module = nnx.eval_shape(Small)
    weights.load(module, state, table=TABLE)
    assert isinstance(module.conv.kernel[...], jnp.ndarray)


@pytest.mark.parametrize("kept", [0, 7, 40, 0.5, -1])
def test_a_truncated_file_is_refused_in_one_sentence(state, tmp_path, kept):
    path = tmp_path / "whole.safetensors"
    save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="truncated") as raised:
        weights.read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.safetensors", b"PK\x03\x04\x00\x00\x08\x08\x00\x00"),
        ("a.safetensors", b"\x80\x02}q\x00X\x05\x00"),
        ("a.pth", b"cos\nsystem\n(S'true'\ntR."),
    ],
)
def test_checkpoints_and_pickles_are_sent_to_the_converter(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"jaxpurify convert .*{re.escape(name)} weights.safetensors"):
        weights.read(tmp_path / name)


def test_integers_are_no_weights(tmp_path):
    save_file({"table": np.arange(3)}, tmp_path / "integers.safetensors")
    with pytest.raises(ValueError, match=r"table of .* is I64"):
        weights.read(tmp_path / "integers.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent"):
        weights.read(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        weights.read(tmp_path)
