"""Read a pickle as data: the standard library parses it, and this file alone decides what each of its operations may do.

A pickle is a program for a stack machine, and two of its operations call what the file names. Here a name is looked up in a
table of the caller's and nowhere else, so that nothing is imported, and only functions of that table are ever called. Plain
containers are built by their exact type; operations that ordinary files do not need (extension codes, INST, OBJ) are refused.
What is built takes memory in proportion to the file, which the standard library's unpickler does not promise.

The operations: the module `pickletools` of Python.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["read_pickle"]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_LITERALS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
_LITERALS |= {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"}
_KEYS = (str, int, float, bool, type(None))


def read_pickle(
    stream: io.BytesIO | mmap.mmap,
    names: Mapping[str, Any],
    *,
    build: Callable[[Any, Any], None] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read the pickle that begins at the position of `stream`, which is left behind its last byte.

    stream: the bytes, in memory or mapped: reading more than are left returns those that are left, without allocating more.
    names: what each global name, `module.name`, stands for. The file may call whatever is callable here, with any arguments.
    build: called as `build(thing, state)` where the file sets the state of a thing; None refuses that.
    persistent: returns the thing with a given persistent id; None refuses such ids.

    Raises ValueError for a name that is not in `names`, an operation that is not supported, and a damaged file; what `names`,
    `build` and `persistent` raise passes through, and a file that confuses types can raise TypeError or IndexError.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below each mark
    memo: dict[int, Any] = {}
    argument: Any
    for operation, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # it reads, tells, and reads lines
        code = operation.name
        if code in _LITERALS:
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _EMPTY:
            stack.append(_EMPTY[code]())
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code == "MARK":
            outer.append(stack)
            stack = []
        elif code == "TUPLE":
            items, stack = stack, outer.pop()
            stack.append(tuple(items))
        elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [stack.pop() for _ in range(int(code[-1]))]
            stack.append(tuple(reversed(items)))
        elif code in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items, stack = stack, outer.pop()
            _extend(stack[-1], items, code)
        elif code == "APPEND":
            items = [stack.pop()]
            _extend(stack[-1], items, "APPENDS")
        elif code == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _extend(stack[-1], [key, value], "SETITEMS")
        elif code == "GLOBAL":
            stack.append(_named(argument.replace(" ", ".", 1), names))
        elif code == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            if type(module) is not str or type(name) is not str:
                raise ValueError("it asks for a name that is not text")
            stack.append(_named(f"{module}.{name}", names))
        elif code in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if type(arguments) is not tuple:
                raise ValueError("it calls a function with arguments that are not a tuple")
            stack.append(function(*arguments))
        elif code == "BUILD" and build is not None:
            state = stack.pop()
            build(stack[-1], state)
        elif code == "BINPERSID" and persistent is not None:
            stack.append(persistent(stack.pop()))
        elif code == "STOP":
            return stack.pop()
        elif code not in ("PROTO", "FRAME"):
            raise ValueError(f"it has the pickle operation {code}, which is not supported")
    raise ValueError("it ends early")


def _named(name: str, names: Mapping[str, Any]) -> Any:
    if name not in names:
        raise ValueError(f"it asks for {name[:200]!r}")
    return names[name]


def _extend(container: Any, items: list[Any], code: str) -> None:
    """Add to a plain container. Keys are scalars: the hash of a deeply nested tuple would exhaust the stack of C."""
    if code == "APPENDS" and type(container) is list:
        container.extend(items)
        return
    keys = items[::2] if code == "SETITEMS" else items
    if type(container) is not {"APPENDS": list, "SETITEMS": dict, "ADDITEMS": set}[code]:
        raise ValueError(f"it adds items to a {type(container).__name__}")
    if any(type(key) not in _KEYS for key in keys):
        raise ValueError("it has a key that is not a plain value")
    if code == "ADDITEMS":
        container.update(items)
    else:
        container.update(zip(keys, items[1::2], strict=True))
