"""A pickle read without running anything that it asks for.

A pickle may name any function and have it called. Here `find_class` hands out only classes of this file: three that
describe what a state dict is made of, and for every other name an inert class, which takes anything and does nothing.
Before that, one pass over the instructions refuses a pickle that could take far more memory or time than it has bytes.
"""

import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

MOST_INSTRUCTIONS = 4_000_000  # a checkpoint has some 100,000; an empty set is 1 byte in a file and 216 in memory
MOST_NAMES = 10_000  # of functions and classes, about 1 kB of memory each; a checkpoint has under 100
MOST_BITS = 2**13  # of a whole number; the states of random generators have 128
MOST_LARGE = 2000  # whole numbers of more than 64 bits: as keys they may all have one hash, and take squared time
MOST_IN_KEY = 1000  # items of a tuple that is a key, and of all tuples in it
REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}  # torch.save writes none; EXT avoids find_class


class _TakesItems(type):
    """The type of inert classes: `inert[key] = value` does nothing."""

    def __setitem__(cls, key: Any, value: Any) -> None:
        pass


class Inert(metaclass=_TakesItems):
    """A class that stands for something the file names, and for all that is called or made with it.

    A pickle may make an instance of what a call returns, so a call returns the class itself. `name` is "module name".
    """

    name = ""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return cls

    @staticmethod
    def __setstate__(state: Any) -> None:
        """Take what BUILD brings; without this method BUILD sets attributes."""

    append = extend = add = __setstate__


@dataclass(frozen=True, eq=False)
class Storage:
    """Where a tensor's values lie: the archive's entry data/`key`, not read yet."""

    kind: str  # "torch FloatStorage"
    key: str
    numel: int

    __setstate__ = staticmethod(Inert.__setstate__)


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A tensor as the file describes it, not checked yet; offset and stride count elements."""

    storage: Any
    offset: Any
    size: Any
    stride: Any

    __setstate__ = staticmethod(Inert.__setstate__)


class Entries(dict[Any, Any]):
    """An OrderedDict's entries; its attributes are dropped."""

    __slots__ = ()
    __setstate__ = staticmethod(Inert.__setstate__)


class _OrderedDict(Inert):
    name = "collections OrderedDict"

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return cls if arguments or named else Entries()


class _Tensor(Inert):
    name = "torch._utils _rebuild_tensor_v2"

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return TensorRecord(*arguments[:4]) if 4 <= len(arguments) <= 6 else cls  # a 7th says negated or conjugated


class _Parameter(Inert):
    name = "torch._utils _rebuild_parameter"

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return arguments[0] if arguments else cls


class _Unpickler(pickle.Unpickler):
    def __init__(self, program: bytes) -> None:
        super().__init__(io.BytesIO(program), encoding="latin-1")
        self.classes: dict[str, type[Inert]] = {kind.name: kind for kind in (_OrderedDict, _Tensor, _Parameter)}

    def find_class(self, module: str, name: str, /) -> type[Inert]:
        """The class that stands for this name; nothing is imported or looked up."""
        full = f"{module} {name}"
        if full not in self.classes:
            if len(self.classes) >= MOST_NAMES:
                raise ValueError(f"more than {MOST_NAMES} names of classes")

            class Named(Inert):
                name = full

            self.classes[full] = Named
        return self.classes[full]

    def persistent_load(self, pid: Any, /) -> Any:
        """("storage", type, key, device, numel), as torch.save writes it, as a Storage; else an inert class."""
        match pid:
            case ("storage", type() as kind, str(key), _, int(numel)) if issubclass(kind, Inert):
                return Storage(kind.name, key, numel)
        return self.find_class("persistent", "id")


def read_pickle(program: bytes) -> Any:
    """What the pickle describes: plain values, `TensorRecord` tensors, and inert classes for everything else.

    Raises ValueError for what `check_program` refuses, and what pickle raises where the bytes make no sense.
    """
    check_program(program)
    return _Unpickler(program).load()


def check_program(program: bytes) -> None:
    """Refuse a pickle that could take far more memory or time than it has bytes. Raises ValueError.

    genops checks that every string and number lies within the pickle. The unpickler's memo is an array as long as its
    highest number. A tuple that is a key is hashed item by item: (a, a), where a is (b, b) and so on, takes 2^n steps,
    and a deep one overflows the C stack; so this counts, for every object on the stack, the items that a hash visits.
    """
    stack: list[int] = []  # of every object, the items that a hash visits
    marks: list[int] = []  # where in the stack
    memo: dict[int, int] = {}
    large = 0  # whole numbers so far
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program), start=1):
        name, before = opcode.name, opcode.stack_before
        if name in REFUSED or count > MOST_INSTRUCTIONS:
            raise ValueError(f"instruction {name} at {count:,}, the limit is {MOST_INSTRUCTIONS:,}")
        if isinstance(argument, int) and argument.bit_length() > MOST_BITS:
            raise ValueError(f"a whole number of {argument.bit_length():,} bits, the limit is {MOST_BITS:,}")
        large += isinstance(argument, int) and argument.bit_length() > 64
        if large > MOST_LARGE:
            raise ValueError(f"more than {MOST_LARGE:,} whole numbers of more than 64 bits")
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name == "POP" and marks[-1:] == [len(stack)]:
            marks.pop()
            continue
        if pickletools.markobject in before:
            mark = marks.pop()
            first, items = mark - before.index(pickletools.markobject), stack[mark:]
        else:
            first = len(stack) - len(before)
            items = stack[max(first, 0) :]
        if first < (marks[-1] if marks else 0):
            raise ValueError(f"nothing to take for instruction {name}")
        del stack[first:]
        if any(weight > MOST_IN_KEY for weight in _keys(name, items)):
            raise ValueError(f"a key of more than {MOST_IN_KEY} items")
        stack += _results(opcode, argument, items, memo)
        if name.endswith("PUT") or name == "MEMOIZE":
            number = argument if isinstance(argument, int) else len(memo)  # MEMOIZE takes the next one
            if number > count:
                raise ValueError(f"memo number {number} at instruction {count}")
            memo[number] = stack[-1]


def _keys(name: str, items: list[int]) -> list[int]:
    """Which of the objects that an instruction takes it hashes."""
    match name:
        case "SETITEM":
            return items[1:2]
        case "SETITEMS" | "DICT":
            return items[::2]
        case "ADDITEMS" | "FROZENSET":
            return items
    return []


def _results(opcode: pickletools.OpcodeInfo, argument: Any, items: list[int], memo: dict[int, int]) -> list[int]:
    """What an instruction leaves on the stack; items are counted up to just above the limit."""
    match opcode.name:
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            return [min(len(items) + sum(items), MOST_IN_KEY + 1)]
        case "DUP":
            return items * 2
        case "MEMOIZE":
            return items
        case "GET" | "BINGET" | "LONG_BINGET":
            return [memo.get(argument, 0)]
    return [0] * len(opcode.stack_after)
