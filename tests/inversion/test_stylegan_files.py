"""`read_stylegan_pkl`: weights as they were written, and nothing of a file that runs."""

from __future__ import annotations

import builtins
import collections
import copyreg
import functools
import io
import json
import operator
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stylegan_checkout as stand_in
import torch
from stylegan_checkout import storage_bytes

from dreamsim_guidance.inversion import read_stylegan_pkl

SETTINGS: dict[str, dict[str, Any]] = {
    "networks": {"z_dim": 5, "img_resolution": 16, "mapping_kwargs": {"bias": True}},
    "networks_stylegan3": {
        "z_dim": 5,
        "sizes": np.array([4, 8]),
        "cutoff": np.float64(2.5),
        "use_radial_filters": True,
    },
}
PLAIN = {**SETTINGS["networks_stylegan3"], "sizes": [4, 8], "cutoff": 2.5}
SOURCES = {"networks": stand_in.STYLEGAN2, "networks_stylegan3": stand_in.STYLEGAN3}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_are_those_that_were_written(tmp_path: Path, name: str, protocol: int) -> None:
    ran = tmp_path / "ran"
    code = stand_in.checkout(tmp_path / "code", **{name: SOURCES[name]})
    generator = stand_in.write(
        tmp_path / "G.pkl", code, name, protocol, f"open({str(ran)!r}, 'w').close()", **SETTINGS[name]
    )
    with (tmp_path / "G.pkl").open("rb") as file, stand_in.imported(code), pytest.raises(KeyError):
        pickle.load(file)  # the trap works: reading the file as NVIDIA's code does runs its text
    ran.unlink()
    state, config = read_stylegan_pkl(tmp_path / "G.pkl")
    expected = generator.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) and state[key].dtype == expected[key].dtype for key in state)
    assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in state.values())
    assert "scratch" not in state
    state["weight" if name != "networks" else "w_avg"].zero_()  # writable, without a warning
    assert config == {
        "class_name": "Generator",
        "init_args": [],
        "init_kwargs": SETTINGS[name] if name == "networks" else PLAIN,
    }
    assert json.loads(json.dumps(config)) == config
    assert not ran.exists() and not {"training", "torch_utils", "dnnlib"} & set(sys.modules)


def module(tensors: Any, **state: Any) -> bytes:
    """A file with one module; `tensors` is spliced in as its `_parameters`."""
    full = {"_parameters": tensors, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {}, **state}
    return write({"G_ema": Call("torch_utils.persistence._reconstruct_persistent_obj", meta(full))})


def meta(state: Any) -> dict[str, Any]:
    return {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "Generator", "state": state}


class Call:
    """In a file: the call of a function by its name, whether or not it exists here."""

    def __init__(self, name: str, *arguments: Any, state: Any = None) -> None:
        self.name, self.arguments, self.state = name, arguments, state


class Name(str):
    """In a file: a global name."""


def write(value: Any) -> bytes:
    return b"\x80\x04" + encode(value) + b"."


def encode(value: Any) -> bytes:
    if isinstance(value, Name):
        outside, _, inside = value.partition(":") if ":" in value else value.rpartition(".")
        return encode(outside) + encode(inside) + b"\x93"
    if isinstance(value, Call):
        called = encode(Name(value.name)) + encode(value.arguments) + b"R"
        return called if value.state is None else called + encode(value.state) + b"b"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(encode(key) + encode(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, bytes) and value.startswith(b"RAW"):
        return value[3:]
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=3)
    pickler.fast = True  # without a memo, whose numbers the cases choose
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


def tensor(data: bytes, size: Any, stride: Any, offset: Any = 0, *flags: Any) -> Call:
    storage = Call("torch.storage._load_from_bytes", data)
    return Call("torch._utils._rebuild_tensor_v2", storage, offset, size, stride, *(flags or (False, None)))


NUMBERS = storage_bytes(struct.pack("<6f", *range(6)), 6)


@pytest.mark.parametrize("kind", ["torch.FloatStorage", "torch.cuda.FloatStorage"])
@pytest.mark.parametrize("place", ["cpu", "cuda:0", "cuda:7", "mps", "xpu:1"])
def test_numbers_of_any_device_are_read_onto_the_cpu(tmp_path: Path, kind: str, place: str) -> None:
    data = storage_bytes(struct.pack("<6f", *range(6)), 6, place=place)
    data = data.replace(b"ctorch\nFloatStorage", b"c" + kind.rpartition(".")[0].encode() + b"\nFloatStorage")
    assert kind.startswith("torch.cuda") == (b"torch.cuda\n" in data)
    (tmp_path / "G.pkl").write_bytes(module({"w": tensor(data, (2, 2), (1, 3), 1)}))
    state, _ = read_stylegan_pkl(tmp_path / "G.pkl")
    assert state["w"].tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "int8", "int16", "bool"]
)
@pytest.mark.parametrize("wrap", [torch.nn.Parameter, torch.Tensor.clone], ids=["parameter", "buffer"])
@pytest.mark.parametrize("attribute", [False, True])
def test_what_this_torch_pickles_is_read(tmp_path: Path, dtype: str, wrap: Any, attribute: bool) -> None:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, dtype))
    if wrap is torch.nn.Parameter:
        values = torch.nn.Parameter(values, requires_grad=values.is_floating_point())
    if attribute:
        values.note = "a"  # type: ignore[attr-defined]
    spliced = b"RAW" + pickle.dumps(values, protocol=4)[11:-1]  # without the header and the frame
    (tmp_path / "G.pkl").write_bytes(module({"w": spliced}))
    state, _ = read_stylegan_pkl(tmp_path / "G.pkl")
    assert state["w"].dtype == values.dtype and torch.equal(state["w"], values.detach())


class Payload:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


CODE = compile("raise SystemExit", "x", "exec")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (pickle.dumps(Payload(os.system, ("false",))), r"asks for '(posix|nt)\.system'"),
    "eval": (pickle.dumps(Payload(eval, ("1",))), r"asks for 'builtins\.eval'"),
    "exec, protocol 0": (pickle.dumps(Payload(exec, ("1",)), 0), r"asks for '__builtin__\.exec'|operation"),
    "protocol 2": (b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x001tR.", r"asks for '__builtin__\.eval'"),
    "getattr": (pickle.dumps(Payload(getattr, ("a", "join"))), r"asks for 'builtins\.getattr'"),
    "import": (pickle.dumps(Payload(__import__, ("os",))), r"asks for 'builtins\.__import__'"),
    "subprocess": (pickle.dumps(Payload(subprocess.Popen, (["false"],))), r"asks for 'subprocess\.Popen'"),
    "partial": (pickle.dumps(functools.partial(print, "x")), r"asks for 'functools\.partial'"),
    "attrgetter": (pickle.dumps(operator.attrgetter("a.b")), r"asks for 'operator\.attrgetter'"),
    "code": (write(Call("types.CodeType", 0)), r"asks for 'types\.CodeType'"),
    "marshal": (write(Call("marshal.loads", b"")), r"asks for 'marshal\.loads'"),
    "dotted name": (write(Call("torch:storage._load_from_bytes.__globals__", b"")), r"asks for .*__globals__'"),
    "dots after a known name": (write(Call("builtins:set.__init__.__globals__")), r"asks for .*__globals__'"),
    "dots in the module": (
        write(Name("collections.OrderedDict:fromkeys")),
        r"asks for 'collections\.OrderedDict\.fromkeys'",
    ),
    "torch.load": (write(Call("torch.load", "x")), r"asks for 'torch\.load'"),
    "torch.hub": (write(Call("torch.hub.load", "x", "y")), r"asks for 'torch\.hub\.load'"),
    "old rebuild": (
        write(Call("torch._tensor._rebuild_from_type", 1)),
        r"asks for 'torch\._tensor\._rebuild_from_type'",
    ),
    "lazy import": (write(Name("dnnlib.util.call_func_by_name")), r"asks for 'dnnlib\.util\.call_func_by_name'"),
    "other class of the checkout": (
        write(Name("training.networks.Generator")),
        r"asks for 'training\.networks\.Generator'",
    ),
    "name with a line break": (write(Name("a\nb.c\x1b[2J")), r"asks for 'a\\nb\.c\\x1b\[2J'"),
    "global name not text": (b"\x80\x04K\x01K\x02\x93.", "a name that is not text"),
    "extension": (b"\x80\x02\x82\x01.", "operation EXT1"),
    "extension 2": (b"\x80\x02\x83\x01\x00.", "operation EXT2"),
    "extension 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "operation EXT4"),
    "INST": (b"(S'false'\nios\nsystem\n.", "operation (STRING|INST)"),
    "OBJ": (b"\x80\x02(cbuiltins\nset\no.", "operation OBJ"),
    "persistent id": (b"\x80\x02K\x01Q.", "operation BINPERSID"),
    "persistent id in text": (b"Pos.system\n.", "operation PERSID"),
    "new object with keywords": (b"\x80\x04cbuiltins\nset\n)}\x92.", "operation NEWOBJ_EX"),
    "buffer out of band": (b"\x80\x05\x97.", "operation NEXT_BUFFER"),
    "calls text": (b"\x80\x04" + encode("os.system") + encode(()) + b"R.", "not callable"),
    "calls a type": (write(Call("torch.Tensor", 3)), "not callable"),
    "arguments not a tuple": (b"\x80\x04" + encode(Name("collections.OrderedDict")) + b"]R.", "not a tuple"),
    "allowed function, odd arguments": (write(Call("collections.OrderedDict", [("a", 1)])), "TypeError"),
    "set of text": (write(Call("builtins.set", "abc")), "not made of a list"),
    "state of a function": (write(Call("collections.OrderedDict", state={"__class__": 1})), "sets the state of a dict"),
    "state of a global": (
        b"\x80\x04" + encode(Name("builtins.set")) + encode(({}, {"__code__": 1})) + b"b.",
        "sets the state of a function",
    ),
    "state with a __setstate__": (
        write(Call("dnnlib.util.EasyDict", state={"__setstate__": Name("builtins.set")})),
        "sets the state of a dict",
    ),
    "items of a global": (b"\x80\x04" + encode(Name("builtins.set")) + b"K\x01K\x02s.", "adds items to a function"),
    "items of a tuple": (b"\x80\x04)K\x01a.", "adds items to a tuple"),
    "pickle in numbers": (
        write(tensor(pickle.dumps(Payload(os.system, ("false",)), 2), (1,), (1,))),
        r"asks for '(posix|nt)\.system'",
    ),
    "global in numbers": (
        write(tensor(storage_bytes(b"", 0, kind=os.system), (1,), (1,))),
        r"asks for '(posix|nt)\.system'",
    ),
    "numbers of an allowed name": (
        write(tensor(write(Call("builtins.set", [])), (1,), (1,))),
        r"asks for 'builtins\.set'",
    ),
    "nested numbers": (
        write(tensor(write(Call("torch.storage._load_from_bytes", b"")), (1,), (1,))),
        r"asks for 'torch\.storage\._load_from_bytes'",
    ),
    "from type": (
        write(Call("torch._tensor._rebuild_from_type_v2", Name("os.system"), Name("torch.Tensor"), ("false",), {})),
        r"asks for 'os\.system'",
    ),
    "from a type that is another": (
        write(Call("torch._tensor._rebuild_from_type_v2", "os.system", Name("torch.Tensor"), ("false",), {})),
        "not callable",
    ),
    "array of objects": (write(Call("numpy.dtype", "O8", False, True)), "array of type 'O8'"),
    "array of records": (write(Call("numpy.dtype", "V8", False, True)), "array of type 'V8'"),
    "array type with fields": (write(Call("numpy.dtype", [("a", "O")])), "TypeError"),
    "array without a type": (write(Call("numpy.core.multiarray.scalar", "O", b"12345678")), "without a type"),
    "big-endian array": (write(Call("numpy.dtype", "f8", False, True, state=(3, ">", None))), "sets the state"),
    "array of other file": (write(Call("numpy.load", "x")), r"asks for 'numpy\.load'"),
    "TensorFlow": (write(Call("dnnlib.tflib.network.Network")), r"TensorFlow code; convert it with legacy\.py"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_what_it_wanted(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*arguments: Any) -> None:
        raise SystemError("it ran")

    content, message = HOSTILE[case]
    modules = set(sys.modules)
    for place, name in [(os, "system"), (builtins, "eval"), (torch, "load"), (torch.storage, "_load_from_bytes")]:
        monkeypatch.setattr(place, name, ran)
    (tmp_path / "G.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_stylegan_pkl(tmp_path / "G.pkl")
    assert "Nothing in it was executed" in str(raised.value) and "\n" not in str(raised.value)
    assert set(sys.modules) == modules


def test_the_message_of_a_hostile_file_does_not_hide_in_good_parts(tmp_path: Path) -> None:
    for hidden in ({"D": Call("os.system", "x")}, {"augment_pipe": [Call("os.system", "x")]}):
        good = Call("torch_utils.persistence._reconstruct_persistent_obj", meta({}))
        (tmp_path / "G.pkl").write_bytes(write({"G_ema": good, **hidden}))
        with pytest.raises(ValueError, match=r"asks for 'os\.system'"):
            read_stylegan_pkl(tmp_path / "G.pkl")


def test_registered_extensions_are_not_used(tmp_path: Path) -> None:
    copyreg.add_extension("collections", "OrderedDict", 240)
    try:
        (tmp_path / "G.pkl").write_bytes(pickle.dumps(collections.OrderedDict))
        with pytest.raises(ValueError, match="operation EXT1"):
            read_stylegan_pkl(tmp_path / "G.pkl")
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 240)


HUGE = 1 << 40
LAUGHS = b"RAW(" + b"](K\x01e\x94" + b"".join(b"](h%ch%ce\x94" % (i, i) for i in range(100)) + b"t"
BOMBS: dict[str, tuple[bytes, str]] = {
    "shape beyond its numbers": (module({"w": tensor(NUMBERS, (HUGE,), (1,))}), "does not fit its numbers"),
    "shape by stride 0": (module({"w": tensor(NUMBERS, (HUGE, 2), (0, 1))}), "does not fit its numbers"),
    "offset": (module({"w": tensor(NUMBERS, (2,), (1,), 5)}), "does not fit its numbers"),
    "offset of nothing": (module({"w": tensor(NUMBERS, (0,), (1,), HUGE)}), "does not fit its numbers"),
    "overflowing stride": (module({"w": tensor(NUMBERS, (3,), (1 << 62,))}), "does not fit its numbers"),
    "overflowing shape": (module({"w": tensor(NUMBERS, (1 << 32, 1 << 32), (0, 0))}), "does not fit its numbers"),
    "negative offset": (module({"w": tensor(NUMBERS, (2,), (1,), -1)}), "does not fit its numbers"),
    "negative stride": (module({"w": tensor(NUMBERS, (2,), (-1,), 1)}), "does not fit its numbers"),
    "negative shape": (module({"w": tensor(NUMBERS, (-2, -2), (1, 1))}), "does not fit its numbers"),
    "dimensions": (module({"w": tensor(NUMBERS, (1,) * 100, (1,) * 100)}), "does not fit its numbers"),
    "shape of one kind": (module({"w": tensor(NUMBERS, (2, 2), (1,))}), "zip"),
    "negated": (module({"w": tensor(NUMBERS, (2,), (1,), 0, False, None, {"neg": True})}), "negation"),
    "storage declared huge": (module({"w": tensor(storage_bytes(b"1234", HUGE), (1,), (1,))}), "numbers are damaged"),
    "length declared huge": (
        module({"w": tensor(storage_bytes(b"1234", 1, length=HUGE), (1,), (1,))}),
        "numbers are damaged",
    ),
    "storage cut": (module({"w": tensor(storage_bytes(b"123", 1), (1,), (1,))}), "numbers are damaged"),
    "view": (module({"w": tensor(storage_bytes(b"1234", 1, view=("2", 0, 1)), (1,), (1,))}), "numbers are damaged"),
    "magic": (module({"w": tensor(storage_bytes(b"1234", 1, magic=1), (1,), (1,))}), "PyTorch's format"),
    "big-endian": (module({"w": tensor(storage_bytes(b"1234", 1, little_endian=False), (1,), (1,))}), "little-endian"),
    "numbers again and again": (
        b"\x80\x04"
        + encode(Name("torch.storage._load_from_bytes"))
        + b"\x94"
        + encode((NUMBERS,))
        + b"\x94R"
        + b"h\x00h\x01R" * 300
        + b".",
        "larger than the file",
    ),
    "memo": (b"\x80\x04Nr\xff\xff\xff\x7f.", "holds a NoneType"),
    "bytes declared huge": (b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"abc.", "expected"),
    "bytes declared larger": (b"\x80\x04\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"abc.", "byte count"),
    "bytearray declared huge": (b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"abc.", "expected"),
    "frame declared huge": (b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.", "holds a NoneType"),
    "number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "operation INT|digits"),
    "key of nested tuples": (b"\x80\x04})" + b"\x85" * 20_000 + b"Ns.", "key that is not a plain value"),
    "member of nested tuples": (b"\x80\x04\x8f()" + b"\x85" * 20_000 + b"\x90.", "key that is not a plain value"),
    "nested lists": (module({}, _init_kwargs={"a": b"RAW" + b"]" * 9000 + b"a" * 8999}), "RecursionError"),
    "list in itself": (module({}, _init_kwargs={"a": b"RAW]\x94h\x00a"}), "RecursionError"),
    "billion lists": (module({}, _init_kwargs={"a": LAUGHS}), "settings are too many"),
    "array of nothing": (
        module(
            {},
            _init_kwargs={
                "a": Call("numpy.core.numeric._frombuffer", b"", Call("numpy.dtype", "i8"), (HUGE, 0, HUGE), "C")
            },
        ),
        "ValueError|too|array",
    ),
    "array without its numbers": (
        module(
            {}, _init_kwargs={"a": Call("numpy.core.multiarray._reconstruct", Name("numpy.ndarray"), (HUGE,), b"b")}
        ),
        "settings contain a _Array",
    ),
    "array declared huge": (
        module(
            {},
            _init_kwargs={
                "a": Call("numpy.core.numeric._frombuffer", b"12345678", Call("numpy.dtype", "i8"), (HUGE,), "C")
            },
        ),
        "cannot reshape",
    ),
    "module in itself": (
        write(
            {"G_ema": Call("torch_utils.persistence._reconstruct_persistent_obj", b"RAW" + encode(meta(b"RAW}\x94")))}
        )[:-1]
        + b".",
        "KeyError",
    ),
    "bytes as settings": (module({}, _init_kwargs={"a": b"abc"}), "settings contain a bytes"),
    "tensor as settings": (module({}, _init_args=(tensor(NUMBERS, (1,), (1,)),)), "settings contain a Tensor"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_declares_too_much_costs_neither_memory_nor_time(tmp_path: Path, case: str) -> None:
    content, message = BOMBS[case]
    (tmp_path / "G.pkl").write_bytes(content)
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_stylegan_pkl(tmp_path / "G.pkl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(content) + (32 << 20)
    assert time.process_time() - start < 20


def test_modules_that_repeat_exponentially_are_refused(tmp_path: Path) -> None:
    name = encode(Name("torch_utils.persistence._reconstruct_persistent_obj"))

    def one(modules: bytes) -> bytes:
        state = {"_parameters": {}, "_buffers": {}, "_modules": b"RAW" + modules, "_init_args": (), "_init_kwargs": {}}
        return name + encode((meta(state),)) + b"R\x94"

    content = one(b"}")
    for i in range(60):
        content = content + one(b"}(" + encode("a") + b"h%c" % i + encode("b") + b"h%cu" % i)
    last = b"h%c" % 60
    (tmp_path / "G.pkl").write_bytes(b"\x80\x04(" + content + b"t" + b"}" + encode("G_ema") + last + b"s.")
    with pytest.raises(ValueError, match="occurs twice"):
        read_stylegan_pkl(tmp_path / "G.pkl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    code = stand_in.checkout(folder / "code", networks=stand_in.STYLEGAN2)
    stand_in.write(folder / "G.pkl", code, "networks", 4, "raise SystemExit", **SETTINGS["networks"])
    return (folder / "G.pkl").read_bytes()


def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path: Path, whole: bytes) -> None:
    for length in [1, 2, 3, *range(11, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut.pkl").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pkl cannot be read"):
            read_stylegan_pkl(tmp_path / "cut.pkl")


def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path, whole: bytes) -> None:
    generator = np.random.default_rng(0)
    for position in generator.integers(len(whole), size=150):
        damaged = bytearray(whole)
        damaged[position] ^= int(generator.integers(1, 256))
        (tmp_path / "damaged.pkl").write_bytes(damaged)
        try:
            state, _ = read_stylegan_pkl(tmp_path / "damaged.pkl")
        except ValueError as error:
            assert "damaged.pkl cannot be read" in str(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read"),
        (os.urandom(1000), "cannot be read"),
        (pickle.dumps({"G": None, "D": 1}), "no network G_ema, it holds G, D"),
        (pickle.dumps({}), "no network G_ema, it holds nothing"),
        (pickle.dumps([1]), "no network G_ema, it holds a list"),
        (pickle.dumps({"G_ema": {"a": 1}}), "no network G_ema"),
        (module({"w": 3}), "w is not a tensor"),
        (module([]), "TypeError"),
        (module({}, _modules={"b4": {}}), r"b4\. is not a module"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "G.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_stylegan_pkl(tmp_path / "G.pkl")
    assert str(tmp_path / "G.pkl") in str(raised.value)


def test_a_zip_of_torch_is_answered_with_what_reads_it(tmp_path: Path) -> None:
    torch.save({"g_ema": {"w": torch.zeros(1)}}, tmp_path / "G.pt")
    with pytest.raises(ValueError, match=r"torch\.load\(path, map_location='cpu', weights_only=True\)"):
        read_stylegan_pkl(tmp_path / "G.pt")
    inner = io.BytesIO()
    torch.save(torch.zeros(1).untyped_storage(), inner)
    (tmp_path / "G.pkl").write_bytes(module({"w": tensor(inner.getvalue(), (1,), (1,))}))
    with pytest.raises(ValueError, match="cannot be read"):
        read_stylegan_pkl(tmp_path / "G.pkl")


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_stylegan_pkl(tmp_path / "none.pkl")
