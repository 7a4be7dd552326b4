"""What a `_target_` accepts, read from its source text.

Nothing is imported: a misspelled argument of `torch.optim.Adam` is refused without waiting for torch, and a
target that came out of a file runs no code by being checked.
"""

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from cnn_lab.errors import find_nearest


@dataclass(frozen=True)
class Parameter:
    """A named argument. `annotation` is None where the source has none."""

    annotation: ast.expr | None
    required: bool

    def accepts(self, value: Any) -> bool:
        """Whether `value`, plain data from a config, fits the annotation, as far as it can be understood."""
        return self.annotation is None or _fits(value, self.annotation)

    def __str__(self) -> str:
        return _describe(self.annotation) if self.annotation else "anything"


@functools.cache
def read_signature(target: str) -> dict[str, Parameter] | None:
    """The arguments of the class or function with this dotted name, by name.

    None where they cannot be told from the source: it takes `**kwargs`, inherits its constructor, is compiled
    or comes from a `*` import.

    Raises:
        LookupError: when there is no such module or name.
        SyntaxError: when a module on the way to it is no Python.
    """
    definition = _find(target)
    skip = 0
    if isinstance(definition, ast.ClassDef):
        constructors = [item for item in definition.body if getattr(item, "name", None) == "__init__"]
        if not constructors and any("dataclass" in ast.unparse(item) for item in definition.decorator_list):
            return _read_fields(definition)
        definition = constructors[0] if constructors else None
        skip = 1  # self
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg:
        return None
    arguments = definition.args
    positional = (arguments.posonlyargs + arguments.args)[skip:]
    first_default = len(positional) - len(arguments.defaults)
    parameters = {
        item.arg: Parameter(item.annotation, required=index < first_default)
        for index, item in enumerate(positional)
    }
    for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[item.arg] = Parameter(item.annotation, required=default is None)
    return parameters


def _read_fields(definition: ast.ClassDef) -> dict[str, Parameter]:
    return {
        item.target.id: Parameter(item.annotation, required=item.value is None)
        for item in definition.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _find(target: str) -> ast.stmt | None:
    """The definition of a dotted name, followed through the imports of the modules on its way."""
    package, *names = target.split(".")
    spec = _find_package(package)
    if spec is None:
        raise LookupError(f"there is no module '{package}', neither in {Path.cwd()} nor installed")
    folders = [*(spec.submodule_search_locations or ()), ""]
    return _find_in(Path(spec.origin or Path(folders[0], "__init__.py")), names, target)


def _find_package(name: str) -> ModuleSpec | None:
    """What is installed, or else lies in the working directory, where Python then finds it, too."""
    try:
        if spec := importlib.util.find_spec(name):
            return spec
    except ValueError:
        return None
    here = str(Path.cwd())
    if spec := PathFinder.find_spec(name, [here]):
        sys.path.append(here)  # after all else, and only for who names a module that lies there
    return spec


def _find_in(module: Path, names: list[str], target: str) -> ast.stmt | None:
    if not names:
        near = find_nearest(target.rpartition(".")[2], _list_names(module))
        raise LookupError(f"'{target}' is a module, not a class or function{near}")
    name, rest = names[0], names[1:]
    if module.name == "__init__.py":
        for inner in (module.parent / name / "__init__.py", module.parent / f"{name}.py"):
            if inner.is_file():
                return _find_in(inner, rest, target)
    for statement in _statements(module):
        if getattr(statement, "name", None) == name:
            return statement if not rest else None
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _find_imported(module, statement, [alias.name, *rest])
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            assigned = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(item, ast.Name) and item.id == name for item in assigned):
                return None
    if any(_hides_names(statement) for statement in _statements(module)):
        return None
    near = find_nearest(name, _list_names(module))
    raise LookupError(f"there is no '{target}' in {module}{near}")


def _list_names(module: Path) -> Iterator[str]:
    for statement in _statements(module):
        if isinstance(statement, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
            yield statement.name


def _hides_names(statement: ast.stmt) -> bool:
    """Whether a module with this statement has names that it does not spell out."""
    if isinstance(statement, ast.ImportFrom):
        return any(alias.name == "*" for alias in statement.names)
    return getattr(statement, "name", None) == "__getattr__"


def _find_imported(module: Path, statement: ast.ImportFrom, names: list[str]) -> ast.stmt | None:
    path = [*(statement.module or "").split("."), *names] if statement.module else names
    if not statement.level:
        return _find(".".join(path))
    start = module.parents[statement.level - 1]
    return _find_in(start / "__init__.py", path, ".".join(path))


@functools.cache
def _statements(module: Path) -> list[ast.stmt]:
    """The module's statements, also those inside a top-level `if` or `try`."""
    if module.suffix != ".py" or not module.is_file():  # compiled, or a folder without __init__.py
        return []
    found: list[ast.stmt] = []
    waiting = list(ast.parse(module.read_bytes(), module).body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, ast.If | ast.Try):
            waiting = [*statement.body, *statement.orelse, *waiting]
        else:
            found.append(statement)
    return found


def _describe(annotation: ast.expr) -> str:
    """The annotation in the words of a config: `Sequence[int] | None` is "a list of integers or null"."""
    match annotation:
        case ast.Name(id=name) if name in WORDS:
            return WORDS[name]
        case ast.Constant(value=None):
            return "null"
        case ast.BinOp(op=ast.BitOr(), left=left, right=ast.Name(id="Tensor")):
            return _describe(left)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return f"{_describe(left)} or {_describe(right)}"
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return f"{_describe(inner)} or null"
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return " or ".join(_describe(option) for option in options)
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=items)):
            return f"a list like [{','.join(_describe(item).split()[-1] for item in items)}]"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=options)):
            return " or ".join(ast.unparse(option) for option in options)
        case ast.Subscript(value=ast.Name(id="list" | "List" | "Sequence" | "Iterable"), slice=item):
            return (
                f"a list of {' or '.join(f'{word.split()[-1]}s' for word in _describe(item).split(' or '))}"
            )
        case _:
            return ast.unparse(annotation)


WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text"}
NUMBERS = {"int": int, "float": int | float, "str": str}


def _fits(value: Any, annotation: ast.expr) -> bool:
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return _fits(value, ast.parse(text, mode="eval").body)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id=name) if name in NUMBERS:
            return isinstance(value, NUMBERS[name]) and not isinstance(value, bool)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return value is None or _fits(value, inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return any(_fits(value, option) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return value in [option.value for option in options if isinstance(option, ast.Constant)]
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=items)):
            if isinstance(items[-1], ast.Constant) and items[-1].value is ...:
                items = [items[0]] * len(value) if isinstance(value, list) else items
            return (
                isinstance(value, list)
                and len(value) == len(items)
                and all(_fits(part, item) for part, item in zip(value, items, strict=True))
            )
        case ast.Subscript(value=ast.Name(id="list" | "List" | "Sequence" | "Iterable"), slice=item):
            return isinstance(value, list) and all(_fits(part, item) for part in value)
        case ast.Subscript(value=ast.Name(id="dict" | "Dict" | "Mapping")) | ast.Name(id="dict"):
            return isinstance(value, dict)
        case ast.Name(id="Tensor" | "Logger" | "Accelerator" | "Strategy" | "Profiler" | "timedelta"):
            return isinstance(value, dict)  # only another `_target_` can make one
        case _:
            return True  # an alias or a type that this reading does not know
