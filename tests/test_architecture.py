"""The house rules that a reader cannot see at a glance: who imports whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "toolchain"
JOINERS = {"cli", "commands", "commands_bench", "commands_check", "commands_devices", "commands_plan", "commands_ship", "build", "study", "steps", "__main__"}  # they may import every room
BASE = {"errors", "console", "files", "published", "workdir", "recipe", "ranges"}  # every room may import them
ALLOWED = {  # room -> further rooms it may import; whatever is not here imports the base alone
    "checkpoint": set(),
    "train": {"data", "checkpoint", "optimizer"},
    "quantize": {"train", "data", "graph", "distill", "prune"},  # prune: its zeros stay
    "prune": set(),
    "models": {"prune"},
    "export": {"graph"},
    "distill": {"train", "data", "models", "engines"},  # engines: a teacher may be an ONNX file
    "gradcam": {"data"},
    "measure": {"engines", "runner"},  # runner: one way of measuring, here and on devices
    "contract": {"engines", "graph"},
    "sensitivity": {"data", "models", "prune", "graph", "engines", "measure", "report"},
    "report": {"doctor"},
    "engines": {"graph"},
    "doctor": {"engines"},
    "blame": {"graph", "engines", "measure", "report"},
    "explain": set(),
    "check": {"report", "measure"},
    "runner": set(),
    "ship": {"engines", "report", "runner"},
    "devices": {"engines", "measure", "runner", "ship"},
}
NO_TORCH = ("recipe", "engines", "contract", "measure", "report", "check", "graph", "ranges", "workdir", "console", "errors", "doctor",
            "runner", "ship", "devices")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    here = room(path)
    if here in JOINERS or here == "__init__":
        return
    others = {n.split(".")[1] for n in imports(path) if n.startswith("toolchain.")} - {here} - BASE
    assert others <= ALLOWED.get(here, set())


@pytest.mark.parametrize("name", NO_TORCH)
def test_the_target_side_and_the_ground_floor_never_name_torch(name: str) -> None:
    place = PACKAGE / name
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        assert not {n for n in imports(path) if n.split(".")[0] in ("torch", "torchvision")}, path


def test_help_and_validation_load_no_heavy_package() -> None:
    code = ("import sys; from toolchain.commands import open_recipe; from pathlib import Path; import toolchain.cli;"
            f"open_recipe(Path({str(PACKAGE.parent / 'recipes' / 'vgg11_int8.yaml')!r}));"
            "print([m for m in ('torch','onnx','onnxruntime','numpy','pandas','matplotlib','tensorrt_rtx') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((PACKAGE / "runner").glob("*.py")), ids=lambda p: p.name)
def test_what_runs_on_a_device_needs_python_and_numpy_alone(path: Path) -> None:
    """Runtimes are imported by name where an engine is opened; Pillow, where there is one, to read images."""
    there = sys.stdlib_module_names | {"numpy", "PIL"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= there
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or (node.module or "").split(".")[0] in there


def test_verifying_a_bundle_needs_python_alone() -> None:
    code = ("import sys; from toolchain.runner import bundle, commands, cuda, jobs, making, place, probe, slots;"
            "print([m for m in ('numpy', 'onnxruntime', 'tensorrt', 'PIL', 'toolchain.errors') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_no_file_holds_more_than_one_idea() -> None:
    long = {str(p.relative_to(PACKAGE)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 300}
    assert not long
