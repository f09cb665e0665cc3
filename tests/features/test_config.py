"""Configuration of features: frozen, and strict about what fits together."""

import pytest
from pydantic import ValidationError

from tickerforge.features.config import FeatureConfig, SyntheticConfig


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"contxt": 10}, "Extra inputs are not permitted"),
        ({"context": 1}, "greater than or equal to 2"),
        ({"horizon": 0}, "greater than or equal to 1"),
        ({"units": "percent"}, "Input should be 'sigma' or 'train_standard'"),
        ({"train_fraction": 0.8, "test_fraction": 0.2}, "must stay below 1"),
        ({"sigma_min": 61}, "sigma_min must not exceed sigma_window"),
        ({"indicator_scope": "window", "context": 9}, "context of at least 10"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, object], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        FeatureConfig(**values)


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FeatureConfig().context = 20
    with pytest.raises(ValidationError, match="frozen"):
        SyntheticConfig().seed = 1


def test_the_embargo_is_one_horizon() -> None:
    assert FeatureConfig(horizon=7).embargo == 7
