"""Annotations as a source spells them: which values they take, and which of these mean the same.

Besides Python's own there are those of `cnn_lab.shapes`: `Each[int]`, `Listed[int]` and `Named`.
"""

import ast
import functools
from typing import Any

WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text"}
NUMBERS = {"int": int, "float": int | float, "str": str}
TUPLES = ("tuple", "Tuple")
LISTS = (*TUPLES, "list", "List", "Sequence", "Iterable")


def describe(annotation: ast.expr) -> str:
    """The annotation in the words of a config: `Sequence[int] | None` is "a list of integers or null"."""
    options = _list_options(annotation)
    if len(options) > 1:  # a number need not be a tensor
        return " or ".join(describe(option) for option in options if ast.unparse(option) != "Tensor")
    match options[0]:
        case ast.Name(id=name) if name in WORDS:
            return WORDS[name]
        case ast.Constant(value=None):
            return "null"
        case ast.Name(id="Named") | ast.Subscript(value=ast.Name(id="Each" | "Listed")):
            return describe(_spell_out(annotation))
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=items)):
            return f"a list like [{','.join(describe(item).split()[-1] for item in items)}]"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=options)):
            return " or ".join(ast.unparse(option) for option in options)
        case ast.Subscript(value=ast.Name(id="list" | "List" | "Sequence" | "Iterable"), slice=item):
            return f"a list of {' or '.join(f'{word.split()[-1]}s' for word in describe(item).split(' or '))}"
        case _:
            return ast.unparse(annotation)


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether an annotation takes `value`, plain data from a config, as far as it can be understood."""
    options = _list_options(annotation)
    if len(options) > 1:
        return any(fits(value, option) for option in options)
    match options[0]:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id=name) if name in NUMBERS:
            return isinstance(value, NUMBERS[name]) and not isinstance(value, bool)
        case ast.Name(id="Named") | ast.Subscript(value=ast.Name(id="Each" | "Listed")):
            return fits(value, _spell_out(options[0]))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return value in [option.value for option in options if isinstance(option, ast.Constant)]
        case ast.Subscript(value=ast.Name(id=name)) as items if name in LISTS:
            if not isinstance(value, list):
                return False
            parts = _list_items(items, len(value))
            return len(parts) == len(value) and all(map(fits, value, parts))
        case ast.Subscript(value=ast.Name(id="dict" | "Dict" | "Mapping")) | ast.Name(id="dict"):
            return isinstance(value, dict)
        case ast.Name(id="Tensor" | "Logger" | "Accelerator" | "Strategy" | "Profiler" | "timedelta"):
            return isinstance(value, dict)  # only another `_target_` can make one
        case _:
            return True  # an alias or a type that this reading does not know


def settle(value: Any, annotation: ast.expr) -> Any:
    """The one form of all values that mean the same to an annotation; what does not fit stays as it is."""
    options = _list_options(annotation)
    fitting = [option for option in options if fits(value, option)]
    if value == 0 and isinstance(value, float) and "int" in map(ast.unparse, options):
        return 0  # of all, which is as many as 0 of them
    if len(fitting) > 1:
        settled = [settle(value, option) for option in fitting]
        return next((item for item in settled if type(item) is type(value)), settled[0])
    match fitting:
        case [ast.Name(id="float")]:
            return float(value)
        case [ast.Name(id="Named")]:
            return value or "none"
        case [ast.Subscript(value=ast.Name(id="Each" | "Listed" as alias), slice=item)]:
            parts = [settle(part, item) for part in (value if isinstance(value, list) else [value])]
            return parts[0] if alias == "Each" and _is_one(parts) else parts
        case [ast.Subscript(value=ast.Name(id=name)) as items] if name in LISTS:
            parts = list(map(settle, value, _list_items(items, len(value))))
            has_one = name in TUPLES and _is_one(parts) and fits(parts[0], annotation)
            return parts[0] if has_one else parts
    return value


def _is_one(parts: list[Any]) -> bool:
    return bool(parts) and all(part == parts[0] for part in parts)


@functools.cache
def _spell_out(annotation: ast.expr) -> ast.expr:
    """One of `cnn_lab.shapes` in Python's own."""
    item = ast.unparse(annotation.slice) if isinstance(annotation, ast.Subscript) else ""
    return ast.parse(f"{item} | Sequence[{item}]" if item else "str | None", mode="eval").body


@functools.cache
def _list_options(annotation: ast.expr) -> list[ast.expr]:
    """The types of which an annotation takes any one."""
    match annotation:
        case ast.Constant(value=str(text)):
            parts = [ast.parse(text, mode="eval").body]
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            parts = [left, right]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            parts = [inner, ast.Constant(None)]
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            pass
        case _:
            return [annotation]
    return [option for part in parts for option in _list_options(part)]


def _list_items(annotation: ast.Subscript, count: int) -> list[ast.expr]:
    """The type of each item of a list of `count`; of a tuple with a length of its own, as many as it has."""
    match annotation.slice:
        case ast.Tuple(elts=[item, ast.Constant(value=value)]) if value is ...:
            return [item] * count
        case ast.Tuple(elts=items):
            return items
        case item:
            return [item] * count
