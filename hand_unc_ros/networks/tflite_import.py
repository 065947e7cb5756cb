"""Reading the weights and the operators of a TensorFlow Lite file, without TensorFlow.

A .tflite file is a FlatBuffer: tables whose fields are found through a table of offsets (`vtable`), by their numbers in
TensorFlow's `lite/schema/schema.fbs`. Only what float networks with few operators need is read here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from hand_unc_ros.errors import ConfigError

# Numbers of `BuiltinOperator`.
OPERATORS = {0: 'ADD', 2: 'CONCATENATION', 3: 'CONV_2D', 4: 'DEPTHWISE_CONV_2D', 6: 'DEQUANTIZE', 9: 'FULLY_CONNECTED',
             14: 'LOGISTIC', 17: 'MAX_POOL_2D', 22: 'RESHAPE', 23: 'RESIZE_BILINEAR', 34: 'PAD', 40: 'MEAN',
             54: 'PRELU'}
# Numbers of `TensorType`.
TYPES = {0: np.dtype('<f4'), 1: np.dtype('<f2'), 2: np.dtype('<i4')}
# Numbers of fields in their tables.
MODEL_CODES, MODEL_SUBGRAPHS, MODEL_BUFFERS = 1, 2, 4
CODE_SHORT, CODE_LONG = 0, 3
GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_OPERATORS = 0, 1, 2, 3
TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME = 0, 1, 2, 3
OPERATOR_CODE, OPERATOR_INPUTS, OPERATOR_OUTPUTS = 0, 1, 2
BUFFER_DATA = 0


@dataclass(frozen=True)
class Tensor:
    """name: as in the file.  shape: NHWC or OHWI.  data: constant values, None where the network computes them."""

    name: str
    shape: tuple[int, ...]
    data: np.ndarray | None


@dataclass(frozen=True)
class Operator:
    """kind: one of OPERATORS.  inputs, outputs: indices of tensors, -1 for an absent one."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TfliteGraph:
    """tensors, and operators in their order of execution.  inputs, outputs: indices of tensors."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class _Table:
    """A table at `place` in `data`; fields by their numbers, absent ones give 0 or nothing."""

    data: bytes
    place: int

    def _field(self, number: int) -> int:
        """Where a field's value is, 0 where it is absent."""
        vtable = self.place - self._number('<i', self.place)
        offset = 4 + 2 * number
        if offset >= self._number('<H', vtable):
            return 0
        relative = self._number('<H', vtable + offset)
        return self.place + relative if relative else 0

    def _number(self, kind: str, place: int) -> int:
        return struct.unpack_from(kind, self.data, place)[0]

    def number(self, number: int, kind: str) -> int:
        place = self._field(number)
        return self._number(kind, place) if place else 0

    def _vector(self, number: int) -> tuple[int, int]:
        """Place of the first element and count."""
        place = self._field(number)
        if not place:
            return 0, 0
        place += self._number('<I', place)
        return place + 4, self._number('<I', place)

    def tables(self, number: int) -> list[_Table]:
        first, count = self._vector(number)
        places = range(first, first + 4 * count, 4)
        return [_Table(self.data, place + self._number('<I', place)) for place in places]

    def integers(self, number: int) -> tuple[int, ...]:
        first, count = self._vector(number)
        return struct.unpack_from(f'<{count}i', self.data, first)

    def content(self, number: int) -> bytes:
        first, count = self._vector(number)
        return self.data[first:first + count]


def read_tflite(data: bytes) -> TfliteGraph:
    """The first graph of a .tflite file. Raises ConfigError for other files and for types or operators unknown here."""
    if data[4:8] != b'TFL3':
        raise ConfigError('this is no TensorFlow Lite file (no TFL3 in its header)')
    try:
        return _graph(_Table(data, struct.unpack_from('<I', data)[0]))
    except (struct.error, ValueError, IndexError) as error:
        raise ConfigError(f'the TensorFlow Lite file is damaged ({error})') from error


def _graph(model: _Table) -> TfliteGraph:
    # Older writers know the short field alone; newer ones write both as long as the number fits.
    kinds = [max(code.number(CODE_SHORT, '<b'), code.number(CODE_LONG, '<i')) for code in model.tables(MODEL_CODES)]
    buffers = [table.content(BUFFER_DATA) for table in model.tables(MODEL_BUFFERS)]
    graph = model.tables(MODEL_SUBGRAPHS)[0]
    operators = []
    for table in graph.tables(GRAPH_OPERATORS):
        kind = kinds[table.number(OPERATOR_CODE, '<I')]
        if kind not in OPERATORS:
            raise ConfigError(f'operator {kind} of the TensorFlow Lite file is not known here')
        operators.append(Operator(OPERATORS[kind], table.integers(OPERATOR_INPUTS), table.integers(OPERATOR_OUTPUTS)))
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(GRAPH_TENSORS))
    return TfliteGraph(tensors, tuple(operators), graph.integers(GRAPH_INPUTS), graph.integers(GRAPH_OUTPUTS))


def _tensor(table: _Table, buffers: list[bytes]) -> Tensor:
    name, shape = table.content(TENSOR_NAME).decode(), table.integers(TENSOR_SHAPE)
    kind = table.number(TENSOR_TYPE, '<b')
    if kind not in TYPES:
        raise ConfigError(f'tensor {name} of the TensorFlow Lite file has a type ({kind}) not known here')
    content = buffers[table.number(TENSOR_BUFFER, '<I')]
    return Tensor(name, shape, np.frombuffer(content, TYPES[kind]).reshape(shape) if content else None)
