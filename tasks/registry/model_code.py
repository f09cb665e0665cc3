"""The code inside a registered model: the modules that forecast, as a package with a hash in its name.

`tickerforge` in their imports is replaced by that name. So every model runs the code that it was registered with, also
in a process that has imported another version of TickerForge or a model with other code.
"""

import ast
import re
from pathlib import Path

from tickerforge.tasks.base.disk import combined_sha256, file_sha256

ROOT = Path(__file__).parents[2]
MODEL_FILE = "pyfunc_model.py"
MODEL_PATH = f"tasks/registry/{MODEL_FILE}"
_IMPORT = re.compile(r"^(\s*from )tickerforge\b", re.MULTILINE)


def write_model_code(folder: Path) -> tuple[Path, Path]:
    """Write the code of a registered model.

    Args:
        folder: New folder to fill.

    Returns:
        The model's main file, and the package that it imports.
    """
    modules = needed_modules(MODEL_PATH)
    package = "tickerforge_" + combined_sha256({name: file_sha256(ROOT / name) for name in modules})[:12]
    for name in modules - {MODEL_PATH}:
        target = folder / package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_renamed(name, package), encoding="utf-8")
    (folder / package / "__init__.py").write_text(
        '"""The part of TickerForge that forecasts, as it was when this model was registered."""\n', encoding="utf-8"
    )
    main = folder / MODEL_FILE
    main.write_text(_renamed(MODEL_PATH, package), encoding="utf-8")
    return main, folder / package


def needed_modules(start: str) -> frozenset[str]:
    """Return a file and our own files that it imports, directly or not; paths below the root of the packages."""
    found: set[str] = set()
    left = [start]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += _imported(ROOT / name)
    return frozenset(found)


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tickerforge."):
            module = node.module.removeprefix("tickerforge.")
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    files = {
        file
        for name in names
        for part in _with_parents(name)
        for file in (f"{part}.py", f"{part}/__init__.py")
        if (ROOT / file).is_file()
    }
    return sorted(files)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _renamed(name: str, package: str) -> str:
    return _IMPORT.sub(rf"\1{package}", (ROOT / name).read_text(encoding="utf-8"))
