"""What holds the package together: no circles, no hub, and no library that knows stages."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2] / "workflow"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in (ROOT / "foldwise").rglob("*.py")
}


def imports(tree: ast.AST) -> set[str]:
    """Modules of the package that a module imports, also within functions, but not for types alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
        else:
            found |= imports(node)
    return found & MODULES.keys()


GRAPH = {name: imports(tree) - {name} for name, tree in MODULES.items()}


def test_no_circle() -> None:
    list(TopologicalSorter(GRAPH).static_order())  # raises CycleError


def test_stages_are_imported_by_commands_alone() -> None:
    assert {
        (name, other)
        for name, others in GRAPH.items()
        for other in others
        if ".stages" in other and ".stages" not in name and ".commands" not in name
    } == set()


def test_no_class_has_more_than_twenty_public_methods() -> None:
    sizes = {
        (name, node.name): sum(
            isinstance(item, ast.FunctionDef) and not item.name.startswith("_") for item in node.body
        )
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert {one: size for one, size in sizes.items() if size > 20} == {}


def test_a_job_imports_one_system_and_the_front_door_no_torch() -> None:
    """Other systems' libraries may be missing, and would take seconds."""
    code = (
        "import sys; from foldwise.systems import system_of; system_of('segmentation'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    imported = set(done.stdout.split())
    assert {name for name in imported if name.startswith("foldwise.systems.clips")} == set()
    assert {"torch", "av", "transformers"} & imported == set()
    assert "foldwise.systems.segmentation.system" in imported
