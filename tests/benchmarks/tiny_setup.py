"""Setup that the benchmarks of GRPO and of generation share: a tiny base model, examples, and a summary of figures."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tickerforge.features.config import FeatureConfig, SyntheticConfig
from tickerforge.features.synthetic import market
from tickerforge.features.windows import build_windows
from tickerforge.training.config import TinyConfig
from tickerforge.training.contracts import Example
from tickerforge.training.examples import build_examples
from tickerforge.training.models.tiny import build_tiny

FEATURES = FeatureConfig()


def base_model(given: str | None) -> str:
    """Return the given folder, or build a model of the default size with less training (about two minutes)."""
    if given:
        return given
    folder = Path(tempfile.mkdtemp(prefix="tickerforge-benchmark-")) / "base"
    folder.mkdir()
    build_tiny(folder, config=TinyConfig(steps=120, batch_size=24), features=FEATURES)
    print(f"base model: {folder} (reuse it with --base-model)")
    return str(folder)


def examples(count: int) -> list[Example]:
    """Make examples from a synthetic market."""
    windows = build_windows(market(SyntheticConfig(sessions=600)), ticker="DEMO", config=FEATURES)
    return build_examples(windows.iloc[:count], config=FEATURES)


def spread(values: Sequence[float]) -> str:
    """Format the median, with the smallest and the largest value in brackets."""
    return f"{statistics.median(values):.3f} [{min(values):.3f} to {max(values):.3f}]"
