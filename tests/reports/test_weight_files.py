"""Weights as people have them: wrapped, nested, beside other things, in shards, or not weights at all."""

import argparse
import collections
import datetime
import decimal
import gzip
import io
import json
import pathlib
import pickle
import re
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from jaxpurify import networks
from jaxpurify.networks import conversion, registry, weights

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jaxpurify[torch]'")
NAME = "sesr-x2"


def state(seed=0, name=NAME):
    shapes = registry.expected(name)[0]
    random = np.random.default_rng(seed)
    return {key: random.uniform(0.01, 0.1, shape).astype(np.float32) for key, shape in shapes.items()}


GOOD, OTHER = state(0), state(1)


def tensors(arrays, prefix=""):
    return {prefix + key: torch.from_numpy(array.copy()) for key, array in arrays.items()}


def converted(content, tmp_path, **options):
    """Save, convert, load; return what the conversion said, and the weights that the network then has."""
    torch.save(content, tmp_path / "c.pth")
    said = conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors", **options)
    networks.load_module(said.architecture, weights_file=tmp_path / "o.safetensors")
    return said, weights.read(tmp_path / "o.safetensors")


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in found)


PREFIXES = ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "1."]
PREFIXES += ["module.model.", "encoder_q.", "_fsdp_wrapped_module.", "student/", "x"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_all_names_begin_with_goes_in_checkpoints_and_safetensors(tmp_path, prefix):
    said, found = converted({"state_dict": tensors(GOOD, prefix)}, tmp_path)
    assert (said.architecture, said.key, said.prefix) == (NAME, "state_dict", prefix)
    assert same(found, GOOD)
    path = tmp_path / "a.safetensors"
    save_file({prefix + key: array for key, array in GOOD.items()}, path)
    module = networks.load_module(NAME, weights_file=path)
    np.testing.assert_array_equal(registry.weights.own_table(module).keys(), GOOD.keys())
    assert conversion.convert(path, tmp_path / "b.safetensors").prefix == prefix
    assert same(weights.read(tmp_path / "b.safetensors"), GOOD)


def test_names_of_an_unknown_network_stay_and_what_they_begin_with_is_said(tmp_path):
    torch.save({"_orig_mod.a.weight": torch.ones(2, 3), "_orig_mod.b.weight": torch.ones(2)}, tmp_path / "a.pth")
    said = conversion.convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (said.architecture, said.prefix) == (None, "")
    assert "all names begin with _orig_mod." in said.advice
    assert weights.read(tmp_path / "a.safetensors").keys() == {"_orig_mod.a.weight", "_orig_mod.b.weight"}


def test_a_refusal_says_what_names_begin_with_and_which_network_is_nearest(tmp_path):
    other_head = {f"_orig_mod.{key}": array for key, array in state(name="cifar-resnet20").items()}
    other_head["_orig_mod.linear.weight"] = np.ones((100, 64), np.float32)
    save_file(other_head, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="do not fit cifar-resnet20") as raised:
        networks.load_classifier("cifar-resnet20", weights=tmp_path / "a.safetensors")
    assert "of another shape: linear.weight (expected (10, 64), got (100, 64))" in str(raised.value)
    assert "all names begin with _orig_mod." in str(raised.value)
    assert "missing" not in str(raised.value)
    with pytest.raises(ValueError, match=r"do not fit imagenet-resnet18: .*the nearest network is cifar-resnet20"):
        networks.load_classifier("imagenet-resnet18", weights=tmp_path / "a.safetensors")
    said = conversion.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert "the nearest network is cifar-resnet20, with of another shape: linear.weight" in said.advice


@pytest.mark.parametrize("order", [1, -1])
def test_names_with_and_without_a_prefix_are_refused_as_twice(tmp_path, order):
    parts = [tensors(GOOD, "module."), tensors(OTHER)][::order]
    torch.save(parts[0] | parts[1], tmp_path / "c.pth")
    with pytest.raises(ValueError, match=rf"c\.pth holds {len(GOOD)} weights twice, with and without module\. before"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
    assert same(converted(parts[0] | parts[1], tmp_path, key="module")[1], GOOD)


def test_names_that_only_some_have_a_prefix_of_are_left(tmp_path):
    names = list(GOOD)
    half = tensors({key: GOOD[key] for key in names[:2]}, "module.") | tensors({key: GOOD[key] for key in names[2:]})
    torch.save(half, tmp_path / "c.pth")
    assert conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors").architecture is None
    assert weights.read(tmp_path / "o.safetensors").keys() == half.keys()


NESTS = ["ema", "model_ema", "params_ema", "params", "weights", "network", "best_state_dict", "model.state_dict"]
NESTS += ["a.b.c.d.e", "ema.shadow", "models.0"]


@pytest.mark.parametrize("nest", NESTS)
def test_the_one_set_of_weights_is_found_at_any_depth(tmp_path, nest):
    content = tensors(GOOD)
    for part in reversed(nest.split(".")):
        content = [content] if part.isdecimal() else {part: content}
    said, found = converted(content | {"epoch": 3, "mean": torch.ones(3)}, tmp_path)
    assert (said.key, said.others) == (nest, ())
    assert same(found, GOOD)


def test_what_optimizers_and_schedules_keep_is_no_set_of_weights(tmp_path):
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    beside = {"optimizer": optimizer.state_dict(), "optimizers": [optimizer.state_dict()], "rng": torch.get_rng_state()}
    beside |= {"callbacks": {"best": torch.tensor(0.5), "when": 3}, "scaler": {"scale": 2.0}}
    said, found = converted({"state_dict": tensors(GOOD)} | beside, tmp_path)
    assert (said.key, said.others) == ("state_dict", ())
    assert same(found, GOOD)


PAIRS = [("model", "ema"), ("state_dict", "state_dict_ema"), ("params", "params_ema"), ("model", "state_dict")]
PAIRS += [("net.a", "net.b"), ("generator", "discriminator"), ("model", "model_ema.shadow")]


@pytest.mark.parametrize("pair", PAIRS)
def test_of_several_sets_of_weights_a_key_has_to_choose(tmp_path, pair):
    content = {}
    for path, arrays in zip(pair, (OTHER, GOOD), strict=True):
        inner = content
        *nests, last = path.split(".")
        for nest in nests:
            inner = inner.setdefault(nest, {})
        inner[last] = tensors(arrays)
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=rf"c\.pth holds several sets of weights, under {pair[0]}, {pair[1]}: choose"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    for key, other, arrays in ((*pair, OTHER), (*pair[::-1], GOOD)):
        said, found = converted(content, tmp_path, key=key)
        assert (said.key, said.others) == (key, (other,))
        assert same(found, arrays)
    with pytest.raises(ValueError, match=rf"no weights under the key 'emma', expected one of: {pair[0]}, {pair[1]}"):
        converted(content, tmp_path, key="emma")


def test_one_object_under_two_names_is_one_set(tmp_path):
    shared = tensors(GOOD)
    assert same(converted({"model": shared, "ema": shared}, tmp_path)[1], GOOD)


def test_an_average_that_lies_beside_the_weights_themselves_is_seen(tmp_path):
    content = tensors(GOOD) | {"ema": tensors(OTHER), "epoch": 3}
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"several sets of weights, under \(the file itself\), ema"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert same(converted(content, tmp_path, key="ema")[1], OTHER)


def test_a_file_without_weights_is_refused(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    torch.save({"epoch": torch.tensor(3)}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        with pytest.raises(ValueError, match=f"{name} must hold named weights"):
            conversion.convert(tmp_path / name, tmp_path / "o.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors do not fit sesr-x2: missing"):
        networks.load_network("sesr-x2", weights=tmp_path / "a.safetensors")


def test_a_checkpoint_that_holds_itself_is_read(tmp_path):
    content = {"state_dict": tensors(GOOD), "history": []}
    content["history"].append(content)
    assert same(converted(content, tmp_path)[1], GOOD)


def test_an_average_without_names_is_seen(tmp_path):
    content = {"model": tensors(GOOD), "ema": {"decay": 0.9, "shadow_params": list(tensors(OTHER).values())}}
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"several sets of weights, under model, ema\.shadow_params"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert converted(content, tmp_path, key="model")[0].others == ("ema.shadow_params",)


def test_a_part_of_the_names_is_told_and_can_be_taken(tmp_path):
    content = {"state_dict": tensors(GOOD, "teacher.") | tensors(OTHER, "student.net.") | {"t.w": torch.ones(2)}}
    torch.save(content, tmp_path / "c.pth")
    said = conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert said.architecture is None
    assert f"those that begin with teacher. fit {NAME}, and key teacher takes them alone" in said.advice
    assert same(converted(content, tmp_path, key="teacher")[1], GOOD)
    assert same(converted(content, tmp_path, key="state_dict.student")[1], OTHER)


def test_averages_of_pytorch_with_their_counter_are_taken(tmp_path):
    average = {"n_averaged": torch.tensor(7)} | tensors(GOOD, "module.")
    assert same(converted({"ema": average}, tmp_path)[1], GOOD)


BESIDE = {
    "NumPy scalars": {
        "a": np.float64(91.7),
        "b": np.float32(1),
        "c": np.int64(3),
        "d": np.bool_(True),
        "e": np.uint8(1),
    },
    "NumPy arrays": {
        "losses": np.arange(3.0),
        "names": np.array(["a", "b"]),
        "rng": np.random.RandomState(0).get_state(),
    },
    "Namespace": {"args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(path=pathlib.Path("runs")))},
    "SimpleNamespace": {"config": types.SimpleNamespace(depth=20)},
    "paths": {
        "out": pathlib.Path("runs/a"),
        "pure": pathlib.PurePosixPath("a"),
        "win": pathlib.PureWindowsPath("c:/a"),
    },
    "collections": {
        "a": collections.OrderedDict(b=1),
        "c": collections.defaultdict(list, {"d": [1]}),
        "e": collections.Counter("aab"),
        "f": collections.deque([1, 2], 5),
    },
    "dates": {
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "day": datetime.date(2026, 1, 2),
        "took": datetime.timedelta(seconds=3),
    },
    "PyTorch": {"a": torch.Size([3, 2]), "b": torch.float16, "c": torch.device("cpu"), "d": torch.__version__},
    "Python": {"a": {1, 2}, "b": frozenset([1]), "c": 1j, "d": b"x", "e": decimal.Decimal("0.1"), "f": slice(1, 2)},
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_that_training_scripts_save_beside_weights_are_read(tmp_path, kind, zipped):
    torch.save({"state_dict": tensors(GOOD)} | BESIDE[kind], tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    assert conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors").key == "state_dict"
    assert same(weights.read(tmp_path / "o.safetensors"), GOOD)


def test_arrays_of_numpy_are_weights_too(tmp_path):
    assert same(converted({"params": {key: array.astype(">f4") for key, array in GOOD.items()}}, tmp_path)[1], GOOD)


class Calls:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("function", [eval, exec, open, getattr, __import__, pathlib.Path.touch, np.load, np.fromfile])
def test_code_beside_the_weights_is_refused_and_does_not_run(tmp_path, function):
    marker = tmp_path / "ran"
    arguments = (f"open({str(marker)!r}, 'w')",) if function in (eval, exec) else (str(marker), "w")
    torch.save({"state_dict": tensors(GOOD), "x": Calls(function, *arguments)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"names code to run .* nothing in it ran"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_what_the_loader_refuses_is_not_converted(tmp_path, dtype):
    torch.save(tensors(GOOD) | {"extra": torch.zeros(2).to(dtype)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=rf"floating point .* extra of .*c\.pth is {str(dtype)[6:]}"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_tensors_without_values_are_refused(tmp_path):
    torch.save(tensors(GOOD) | {"extra": torch.zeros(2, device="meta")}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"extra of .*c\.pth cannot be read"):
        conversion.convert(tmp_path / "c.pth", tmp_path / "o.safetensors")


def sharded(tmp_path, form, prefix=""):
    names = list(GOOD)
    parts = {f"part-1.{form}": names[:2], f"part-2.{form}": names[2:]}
    for file, held in parts.items():
        arrays = {key: GOOD[key] for key in held}
        if form == "safetensors":
            save_file({prefix + key: array for key, array in arrays.items()}, tmp_path / file)
        else:
            torch.save(tensors(arrays, prefix), tmp_path / file)
    path = tmp_path / f"model.{form}.index.json"
    entries = {prefix + key: file for file, held in parts.items() for key in held}
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": entries}))
    return path


def test_shards_are_read_by_their_index(tmp_path):
    path = sharded(tmp_path, "safetensors", "model.")
    networks.load_module(NAME, weights_file=path)
    assert conversion.convert(path, tmp_path / "o.safetensors").architecture == NAME
    assert same(weights.read(tmp_path / "o.safetensors"), GOOD)
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names files that are not there: .*part-2"):
        networks.load_module(NAME, weights_file=path)


def test_shards_of_pytorch_are_converted_and_the_loader_says_so(tmp_path):
    path = sharded(tmp_path, "bin")
    with pytest.raises(ValueError, match=r"part-1\.bin looks like a PyTorch checkpoint .* convert"):
        networks.load_module(NAME, weights_file=path)
    assert conversion.convert(path, tmp_path / "o.safetensors").architecture == NAME
    assert same(weights.read(tmp_path / "o.safetensors"), GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a whole index"),
        (lambda text: text.replace("part-1", "../part-1"), "files that lie beside it, got '../part-1"),
        (lambda text: json.dumps({"weight_map": []}), "not a whole index"),
        (lambda text: json.dumps({"weight_map": {"a": 3}}), "not a whole index"),
        (lambda text: '{"weight_map": {"a": "part-1.safetensors", "a": "part-2.safetensors"}}', "twice"),
        (lambda text: '{"weight_map": {"a": "part-1.safetensors"}}', r"part-1.safetensors lacks .*: a"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, change, message):
    path = sharded(tmp_path, "safetensors")
    path.write_text(change(path.read_text()))
    for attempt in (weights.read, lambda path: conversion.convert(path, tmp_path / "o.safetensors")):
        with pytest.raises(ValueError, match=message):
            attempt(path)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def of_numpy(write, *arguments, **options):
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def script():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def msgpack():
    from flax import serialization

    return serialization.msgpack_serialize({"params": {"a": np.ones(3)}})


FOREIGN = {
    "TorchScript archive": script,
    "NumPy archive": lambda: of_numpy(np.savez, **GOOD),
    "one NumPy array": lambda: of_numpy(np.save, np.ones(3)),
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
    "msgpack": msgpack,
    "Git-LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "HTML": lambda: b"\n<!DOCTYPE html><html><body>not found</body></html>",
    "JSON file": lambda: b'{"abcd":{"architectures": ["resnet"]}}',
    "zip archive that holds 'a.txt'": lambda: zipped(**{"a.txt": "a"}),
    "ONNX": lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0",
    "GGUF": lambda: b"GGUF\x03\x00\x00\x00",
    "is empty": lambda: b"",
    "zeros only": lambda: bytes(10_000),
    "gzip": lambda: gzip.compress(save(GOOD)),
    "text file": lambda: "weights, où ça ?".encode(),
    "image": lambda: b"\x89PNG\r\n\x1a\n" + bytes(30),
    "Keras": lambda: zipped(**{"config.json": "{}", "model.weights.h5": "h5"}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("ending", ["safetensors", "pth", "bin"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_something_else_is_named_for_what_it_is(tmp_path, kind, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(FOREIGN[kind]())
    for attempt in (weights.read, lambda path: conversion.convert(path, tmp_path / "o.safetensors")):
        with pytest.raises(ValueError, match=re.escape(kind)) as raised:
            attempt(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_pickle_that_pytorch_did_not_write_is_named(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": [1.0]}, protocol=2))
    with pytest.raises(ValueError, match=r"a pickle that torch\.save did not write"):
        conversion.convert(tmp_path / "a.pth", tmp_path / "o.safetensors")


def test_a_checkpoint_is_not_converted_into_itself(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(tensors(GOOD), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the same file as the source"):
        conversion.convert(path, path)
    assert path.read_bytes() == before
    index = sharded(tmp_path, "safetensors")
    with pytest.raises(ValueError, match="is the same file as the source"):
        conversion.convert(index, tmp_path / "part-1.safetensors")


# Mutants: a whole file with bytes changed, cut, left out, doubled or zeroed, most of them past the file's signature.
FORMS = ["safetensors", "zip", "old", "index"]


def whole(form, tmp_path):
    small = {key: array[..., :1] for key, array in list(GOOD.items())[:6]}
    if form == "safetensors":
        return save(small | {"half": np.ones(3, ml_dtypes.bfloat16)})
    if form == "index":
        return sharded(tmp_path, "safetensors").read_bytes()
    buffer = io.BytesIO()
    content = {"state_dict": tensors(small, "module."), "best": np.float64(1), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


def mutant(content, random):
    changed, begin = bytearray(content), 9 if random.uniform() < 0.9 else 0
    # Most of what can go wrong is in the first part, where structure is; the rest is mostly numbers.
    most = len(changed) if random.uniform() < 0.5 else min(len(changed), 1500)
    for _ in range(random.integers(1, 6)):
        place = int(random.integers(begin, max(begin + 1, most)))
        length = int(random.integers(1, 40))
        match random.integers(6):
            case 0 | 1:
                changed[place : place + 1] = bytes([random.integers(256)])
            case 2:
                changed[place : place + length] = random.integers(0, 256, length, np.uint8).tobytes()
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place : place + length] = bytes(length)
    return bytes(changed[: int(random.integers(1, len(changed)))] if random.uniform() < 0.1 else changed)


def check_mutants(tmp_path, form, count, seed=0):
    content, random = whole(form, tmp_path), np.random.default_rng(seed)
    path, target = tmp_path / f"mutant.{form}", tmp_path / "o.safetensors"
    signed = 0
    for _ in range(count):
        path.write_bytes(mutant(content, random))
        signed += path.read_bytes()[:4] == content[:4]
        attempts = {
            "read": weights.read,
            "load": lambda path: networks.load_module(NAME, weights_file=path),
            "convert": lambda path: conversion.convert(path, target),
        }
        for name, attempt in attempts.items():
            try:
                attempt(path)
            except (ValueError, FileNotFoundError) as error:
                assert str(path) in str(error) or str(tmp_path / "part-") in str(error), error  # noqa: PT017
                assert "\n" not in str(error), error  # noqa: PT017
                assert not target.exists()
            else:
                assert target.exists() == (name == "convert")
                if target.exists():
                    weights.read(target)
            target.unlink(missing_ok=True)
            assert not list(tmp_path.glob(".*"))
    assert signed > count / 2


@pytest.mark.parametrize("form", FORMS)
def test_damaged_weight_files_end_in_one_sentence_that_names_them(tmp_path, form):
    check_mutants(tmp_path, form, 15)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_damaged_weight_files_end_in_one_sentence_that_names_them(tmp_path, form):
    check_mutants(tmp_path, form, 500, seed=1)
