import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("docs_hook", ROOT / ".ci" / "docs.py")
assert _spec is not None
assert _spec.loader is not None
hook = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hook)


def written(markdown: str) -> str:
    file = SimpleNamespace(abs_src_path=str(ROOT / "docs" / "page.md"), src_uri="page.md")
    return hook.on_page_markdown(markdown, page=SimpleNamespace(file=file), config=None)


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[gpu.toml](../deployments/recipes/gpu.toml)", "`deployments/recipes/gpu.toml`"),
        ("[`features/units.py`](../features/units.py)", "`features/units.py`"),
        ("[the rules](../CONTRIBUTING.md#rules)", "the rules (`CONTRIBUTING.md`)"),
        ("[gpu.md](gpu.md#one-gpu)", "[Training on GPUs](gpu.md#one-gpu)"),
        ("[the night](daily.md#the-night)", "[the night](daily.md#the-night)"),
        ("[apprise](https://example.org/wiki)", "[apprise](https://example.org/wiki)"),
        ("[below](#below)", "[below](#below)"),
        ("![A report](report.png)", "![A report](report.png)"),
    ],
)
def test_links_name_pages_by_title_and_other_files_by_path(link: str, shown: str) -> None:
    assert written(f"See {link}.") == f"See {shown}."


def test_a_link_to_a_missing_file_is_a_warning_which_ends_a_strict_build(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        assert written("[units](../features/unit.py)") == "[units](../features/unit.py)"
    assert [record.getMessage() for record in caplog.records] == [
        "page.md links to ../features/unit.py, which does not exist"
    ]
