"""Who may import whom: the lesson on top, the machinery in rooms, and no way back up."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import cnn_lab

PACKAGE = Path(cnn_lab.__file__).parent
# Each room may use the flat modules, and of the rooms these.
ROOMS = {
    "settings": set(),
    "terminal": {"settings"},
    "pictures": {"settings", "terminal", "sources"},
    "sources": {"settings"},
    "runs": {"settings", "terminal", "pictures", "sources"},
    "sweeps": {"settings", "terminal", "pictures", "runs"},
    "explain": {"settings", "terminal", "pictures", "runs", "sources"},
    "use": {"settings", "terminal", "pictures", "runs", "sources"},
    "commands": {"settings", "terminal", "pictures", "runs", "sweeps", "explain", "use"},
}
MOST_FLAT, MOST_IN_A_ROOM, MOST_LINES, LONGEST_FUNCTION = 14, 15, 300, 50
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """(module of this package, name) for each name that a module imports, inside functions too."""

    def walk(node: ast.AST) -> Iterator[ast.ImportFrom]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom):
                yield child
            yield from walk(child)

    for statement in walk(ast.parse(MODULES[module].read_text())):
        for alias in statement.names:
            place = f"{statement.module}.{alias.name}".removeprefix("cnn_lab.")
            if place in MODULES:
                yield place, ""
            elif (statement.module or "").startswith("cnn_lab."):
                yield statement.module.removeprefix("cnn_lab."), alias.name


def room_of(module: str) -> str:
    return module.rpartition(".")[0]


def test_every_module_imports_only_what_lies_below_it() -> None:
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == set(ROOMS)
    for module in MODULES:
        for imported, name in imports_of(module):
            here, there = room_of(module), room_of(imported)
            allowed = {"", here, *(ROOMS[here] if here else ROOMS if module == "training" else ())}
            assert there in allowed, f"{module} imports {imported}"
            assert not name.startswith("_") or name == "__version__", f"{module} imports {name} of {imported}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: {imported for imported, _ in imports_of(module)} for module in MODULES}
    order = list(
        graphlib.TopologicalSorter(graph).static_order()
    )  # raises CycleError, which names the circle
    assert set(order) == set(MODULES)


def test_rooms_have_names_and_stay_small() -> None:
    assert sum(not room_of(module) for module in MODULES) <= MOST_FLAT
    for room in ROOMS:
        assert (PACKAGE / room / "__init__.py").read_text() == ""
        assert len(list((PACKAGE / room).glob("[!_]*"))) <= MOST_IN_A_ROOM
    assert not {"utils", "common", "helpers", "base"} & {module.rpartition(".")[2] for module in MODULES}


def test_no_module_and_no_function_is_long() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= MOST_LINES, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                docstring = (ast.get_docstring(node) or "").count("\n")
                assert node.end_lineno - node.lineno - docstring < LONGEST_FUNCTION, f"{module}.{node.name}"
