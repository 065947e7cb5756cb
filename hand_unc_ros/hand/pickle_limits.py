"""What a pickle may ask of the unpickler, found from its opcodes before anything is built."""

from __future__ import annotations

import io
import pickletools

# MANO's files have 4 MB and a few hundred opcodes, datasets' annotations less.
MAX_OPCODES = 200_000
# Values, each counted as often as it is used: tuples that hold one another twice would make a hash take for ever.
MAX_VALUES = 2_000_000
# Hashing and freeing nested tuples recurses in C, without a limit of its own.
MAX_NESTING = 200
REFUSED_OPCODES = {
    'EXT1', 'EXT2', 'EXT4', 'PERSID', 'BINPERSID', 'INST', 'OBJ', 'NEXT_BUFFER', 'READONLY_BUFFER',
}
_PUTS = {'PUT', 'BINPUT', 'LONG_BINPUT'}
_GETS = {'GET', 'BINGET', 'LONG_BINGET'}
# These put values into the container, or state into the object, that lies under them.
_FILLING = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD'}


class PickleError(ValueError):
    """A pickle that is refused or malformed; callers add the file and the remedy."""


class _Value:
    """A value that the unpickler would build: `parts` are those that it holds."""

    __slots__ = ('parts',)

    def __init__(self, parts: list[_Value]) -> None:
        self.parts = parts


_MARK = _Value([])


def check_opcodes(file: io.BytesIO, refused: set[str], times: int = 1) -> None:
    """Refuse a pickle that is cut short, too long, or uses a refused opcode. Leaves `file` after the pickle.

    times: by how much it may be longer than MAX_OPCODES."""
    count, most = 0, times * MAX_OPCODES
    try:
        for opcode, argument, _ in pickletools.genops(file):
            count += 1
            if opcode.name in refused:
                raise PickleError(f'refused: the pickle uses the opcode {opcode.name}; nothing was run')
            # A memo slot of a huge number would make the unpickler allocate all slots before it.
            if count > most or (opcode.name in _PUTS and argument > most):
                raise PickleError(f'refused: far more objects than a file of this kind holds (MAX_OPCODES, {most})')
    except PickleError:
        raise
    except Exception as error:
        # genops raises ValueError, UnicodeDecodeError and others on bytes that are no pickle.
        raise PickleError(f'not a whole pickle ({one_line(error)})') from error


def check_tree(content: bytes, times: int = 1) -> None:
    """Refuse a pickle whose values, each counted as often as it is used, are more than `times` MAX_VALUES, or are
    nested deeper than MAX_NESTING. content: what `check_opcodes` has let through."""
    try:
        values = _built(content)
    except IndexError as error:
        raise PickleError('not a whole pickle (its stack runs empty)') from error
    except KeyError as error:
        raise PickleError('not a whole pickle (it uses what it has not stored)') from error
    sizes: dict[int, tuple[int, int]] = {}
    for start in values:
        _measure(start, sizes, times * MAX_VALUES)


def _built(content: bytes) -> list[_Value]:
    """All values of a pickle, in the order in which the unpickler would make them."""
    stack: list[_Value] = []
    memo: dict[int, _Value] = {}
    values: list[_Value] = []
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name == 'MARK':
            stack.append(_MARK)
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _PUTS:
            memo[argument] = _top(stack)
        elif name == 'MEMOIZE':
            memo[len(memo)] = _top(stack)
        elif name == 'DUP':
            stack.append(_top(stack))
        elif name == 'POP':
            stack.pop()
        else:
            popped = _popped(stack, opcode.stack_before)
            if name in _FILLING:
                popped[0].parts += popped[1:]
                stack.append(popped[0])
            else:
                for _ in opcode.stack_after:
                    values.append(_Value(popped))
                    stack.append(values[-1])
    return values


def _popped(stack: list[_Value], before: list[pickletools.StackObject]) -> list[_Value]:
    """What an opcode takes off the stack, lowest first, without the mark."""
    if pickletools.markobject not in before:
        taken = [_top(stack) and stack.pop() for _ in before]
        return taken[::-1]
    above = []
    while stack[-1] is not _MARK:
        above.append(stack.pop())
    stack.pop()
    below = [_top(stack) and stack.pop() for _ in range(before.index(pickletools.markobject))]
    return below[::-1] + above[::-1]


def _top(stack: list[_Value]) -> _Value:
    """Raises IndexError where there is none above the last mark."""
    if stack[-1] is _MARK:
        raise IndexError
    return stack[-1]


def _measure(start: _Value, sizes: dict[int, tuple[int, int]], most: int) -> None:
    """Put the size and the nesting of `start`, and of all that it holds, into `sizes`, by id.

    A value that holds itself counts as one where it recurs: what walks through it has to notice."""
    todo = [(start, False)]
    open_: set[int] = set()
    while todo:
        value, done = todo.pop()
        if done:
            open_.discard(id(value))
            parts = [sizes.get(id(part), (1, 1)) for part in value.parts]
            size = 1 + sum(part[0] for part in parts)
            nesting = 1 + max((part[1] for part in parts), default=0)
            if size > most:
                raise PickleError(f'refused: more values, each counted as often as used, than MAX_VALUES, {most}')
            if nesting > MAX_NESTING:
                raise PickleError(f'refused: nested deeper than MAX_NESTING, {MAX_NESTING}')
            sizes[id(value)] = size, nesting
        elif id(value) not in sizes and id(value) not in open_:
            open_.add(id(value))
            todo.append((value, True))
            todo += [(part, False) for part in value.parts]


def one_line(text: object) -> str:
    """What a file has put into a message, as one line of bounded length that no terminal obeys."""
    return ''.join(char if char.isprintable() else '?' for char in ' '.join(str(text)[:400].split()))[:200]
