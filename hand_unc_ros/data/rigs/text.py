"""The content of YAML, TOML and OpenCV FileStorage files, bounded in size, with every fault in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hand_unc_ros.errors import CalibrationError, MissingDependencyError

FORMATS = ("hand_unc_ros YAML ('cameras:'), Kalibr camchain YAML ('cam0:' with 'intrinsics'), "
           "aniposelib and Pose2Sim TOML ('[cam_0]'), caliscope TOML ('[cameras.0]'), OpenCV FileStorage "
           "(intri.yml and extri.yml as EasyMocap writes them), ROS camera_info YAML ('camera_matrix:')")
# A rig of a hundred cameras takes 50 kB.
LARGEST_FILE = 512 * 1024
# Values that a file may hold when its aliases are written out.
MOST_VALUES = 100_000
# A matrix below a key below a camera is 5 deep. PyYAML takes seconds to give up on thousands.
_DEEPEST = 100
_LONGEST_NUMBER = 1000
_MOST_BITS = 1024
_NUMBER_TAGS = ('tag:yaml.org,2002:int', 'tag:yaml.org,2002:float', 'tag:yaml.org,2002:timestamp')
_OPENCV_MATRIX = 'tag:yaml.org,2002:opencv-matrix'
_OPENCV_HEADER = re.compile(r'\A%YAML:[^\n]*')


class _Loader(yaml.SafeLoader):
    """Safe YAML, with OpenCV's matrices, that refuses a key given twice and aliases that unfold without end."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values_of(node, {}) > MOST_VALUES:
            raise CalibrationError(f'its aliases unfold to more than {MOST_VALUES} values; write the values out')
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise CalibrationError(f'key {short(key)} is given twice (line {key_node.start_mark.line + 1}); '
                                       'give every camera and every key its own name')
            seen.add(key)
        return super().construct_mapping(node, deep)


def _opencv_matrix(loader: _Loader, node: yaml.Node) -> list[list[Any]]:
    """The rows of an OpenCV matrix."""
    content = loader.construct_mapping(node, deep=True)
    rows, cols, data = (content.get(key) for key in ('rows', 'cols', 'data'))
    whole = all(isinstance(extent, int) and not isinstance(extent, bool) and extent > 0 for extent in (rows, cols))
    if not whole or not isinstance(data, list) or len(data) != rows * cols:
        raise CalibrationError(f'the OpenCV matrix at line {node.start_mark.line + 1} has other than rows × cols '
                               'numbers; write the file again with cv2.FileStorage')
    return [data[row * cols:(row + 1) * cols] for row in range(rows)]


_Loader.add_constructor(_OPENCV_MATRIX, _opencv_matrix)


def read_content(path: Path) -> dict:
    """The mapping at the top level of a file: TOML by its ending, else YAML or OpenCV's.

    Raises CalibrationError, or MissingDependencyError where a TOML file needs a reader that Python 3.10 lacks.
    """
    text = _read_text(path)
    content = _parse_toml(path, text) if path.suffix.lower() == '.toml' else _parse_yaml(path, text)
    if not isinstance(content, dict):
        raise CalibrationError(f'{path}: no keys at the top level; recognised are {FORMATS}')
    return content


def short(value: Any) -> str:
    """A value as one short line for a message."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (ValueError, RecursionError):
        return 'a value that cannot be shown'
    text = ' '.join(text.split())
    return text if len(text) <= 80 else text[:77] + '…'


def _read_text(path: Path) -> str:
    try:
        with path.open('rb') as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise CalibrationError(f'{path}: no such file; check the path of the rig file') from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CalibrationError(f'{path}: cannot be read ({why}); check the path') from None
    if len(data) > LARGEST_FILE:
        raise CalibrationError(f'{path}: larger than {LARGEST_FILE // 1024} KiB, which no rig file is; check the path')
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError:
        raise CalibrationError(f'{path}: not a text file in UTF-8; recognised are {FORMATS}') from None
    if not text.strip():
        raise CalibrationError(f'{path}: the file is empty; recognised are {FORMATS}')
    if re.match(r'\s*<(\?xml|opencv_storage)', text):
        raise CalibrationError(f'{path}: XML files of OpenCV are not read; write it as YAML (cv2.FileStorage with a '
                               'name that ends in .yml)')
    if _depth(text) > _DEEPEST:
        raise CalibrationError(f'{path}: brackets are nested too deep for a rig file; recognised are {FORMATS}')
    return text


def _depth(text: str) -> int:
    """How deep its brackets are nested, those in texts and comments included."""
    depth = deepest = 0
    for bracket in re.findall(r'[\[\]{}]', text):
        depth = depth + 1 if bracket in '[{' else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _parse_yaml(path: Path, text: str) -> Any:
    # OpenCV's header is not YAML's; Kalibr files edited for other programs often start with it.
    is_opencv = _OPENCV_HEADER.match(text) is not None
    text = _OPENCV_HEADER.sub('', text)
    what = 'damaged OpenCV FileStorage file' if is_opencv else 'not valid YAML'
    try:
        return yaml.load(text, Loader=_Loader)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f' at line {mark.line + 1}' if mark else ''
        raise CalibrationError(f'{path}: {what}{where}; recognised are {FORMATS}') from None
    except RecursionError:
        raise CalibrationError(f'{path}: {what}, nested too deep; recognised are {FORMATS}') from None
    except (ValueError, TypeError, OverflowError, ArithmeticError, AttributeError, LookupError):
        # PyYAML lets through what its constructors raise: dates and numbers that are none, keys that are lists.
        raise CalibrationError(f'{path}: {what}, with a number, date or key that is none; '
                               f'recognised are {FORMATS}') from None


def _values_of(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node with its aliases written out. known: those of nodes met before, 0 while one is open."""
    size = known.get(id(node))
    if size is not None:
        if size == 0:
            raise CalibrationError(f'the alias at line {node.start_mark.line + 1} holds itself; write the values out')
        return size
    known[id(node)] = 0
    if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBER_TAGS and len(node.value) > _LONGEST_NUMBER:
        raise CalibrationError(f'the number at line {node.start_mark.line + 1} has {len(node.value)} digits')
    known[id(node)] = 1 + sum(_values_of(child, known) for child in _children(node))
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _parse_toml(path: Path, text: str) -> dict:
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            raise MissingDependencyError(
                f"{path}: reading TOML with Python 3.10 needs tomli: pip install 'tomli>=2'") from None
    try:
        content = tomllib.loads(text)
        if _has_endless_integer(content):
            raise ValueError('an integer has too many digits')
    except RecursionError:
        raise CalibrationError(f'{path}: not valid TOML (nested too deep); recognised are {FORMATS}') from None
    except ValueError as error:
        raise CalibrationError(f"{path}: not valid TOML ({' '.join(str(error).split())[:200]}); a camera may be named "
                               'twice') from None
    return content


def _has_endless_integer(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_endless_integer(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_endless_integer(item) for item in value)
    return isinstance(value, int) and value.bit_length() > _MOST_BITS
