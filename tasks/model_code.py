"""The code that a registered model brings along: the modules behind a forecast, in a package of a name of their own.

Imports are rewritten to that name, as pip does with the libraries that it carries. It holds a hash of the content, so
that every model runs the very code that it was registered with, whatever is installed or imported beside it: another
version of TickerForge, another model's code, or somebody's own package called `tasks`.
"""

import ast
import re
from pathlib import Path

from tasks.disk import combined_sha256, file_sha256

ROOT = Path(__file__).parent.parent
PACKAGES = ("evaluation", "features", "tasks", "training")
MODEL_FILE = "pyfunc_model.py"
_IMPORT = re.compile(rf"^(\s*from )({'|'.join(PACKAGES)})\b", re.MULTILINE)


def write_model_code(folder: Path) -> tuple[Path, Path]:
    """Write the code of a registered model.

    Args:
        folder: New folder to fill.

    Returns:
        The model's main file, and the package that it imports.
    """
    modules = needed_modules(f"tasks/{MODEL_FILE}")
    package = "tickerforge_" + combined_sha256({name: file_sha256(ROOT / name) for name in modules})[:12]
    for name in modules - {f"tasks/{MODEL_FILE}"}:
        target = folder / package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_renamed(name, package), encoding="utf-8")
    (folder / package / "__init__.py").write_text(
        '"""The part of TickerForge that forecasts, as it was when this model was registered."""\n', encoding="utf-8"
    )
    main = folder / MODEL_FILE
    main.write_text(_renamed(f"tasks/{MODEL_FILE}", package), encoding="utf-8")
    return main, folder / package


def needed_modules(start: str) -> frozenset[str]:
    """Our own files that a file imports, at once or later, itself included; paths below the root of the packages."""
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
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
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
    return _IMPORT.sub(rf"\1{package}.\2", (ROOT / name).read_text(encoding="utf-8"))
