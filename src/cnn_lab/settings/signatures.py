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
from cnn_lab.settings.annotations import describe, fits, settle


@dataclass(frozen=True)
class Parameter:
    """A named argument. `annotation` and `default` are None where the source has none."""

    annotation: ast.expr | None
    default: ast.expr | None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is None

    def accepts(self, value: Any) -> bool:
        """Whether `value`, plain data from a config, fits the annotation, as far as it can be understood."""
        return self.annotation is None or fits(value, self.annotation)

    def settle(self, value: Any) -> Any:
        """The one form of all the values that mean the same, as far as the annotation says so."""
        return settle(value, self.annotation) if self.annotation else value

    def read_default(self) -> Any:
        """The default as plain data, settled.

        Raises:
            ValueError: for one that only running the source would tell.
        """
        value = ast.literal_eval(self.default)  # type: ignore[arg-type]
        return self.settle(list(value) if isinstance(value, tuple) else value)

    def __str__(self) -> str:
        return describe(self.annotation) if self.annotation else "anything"


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
    without_default = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*without_default, *arguments.defaults, *arguments.kw_defaults]
    named = [*positional, *arguments.kwonlyargs]
    return {
        item.arg: Parameter(item.annotation, default) for item, default in zip(named, defaults, strict=True)
    }


def _read_fields(definition: ast.ClassDef) -> dict[str, Parameter]:
    return {
        item.target.id: Parameter(item.annotation, item.value)
        for item in definition.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def _find(target: str) -> ast.stmt | None:
    """The definition of a dotted name, followed through the imports of the modules on its way."""
    package, *names = target.split(".")
    spec = _find_package(package)
    if spec is None:
        raise LookupError(f"no module '{package}' is installed or in {Path.cwd()}")
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
