"""Prompts: what the model reads, and that nothing but an exact answer is read back."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerforge.features.config import AnswerStyle, FeatureConfig, SyntheticConfig
from tickerforge.features.prompts import (
    FEATURE_COLUMNS,
    FULL_LINES,
    STANDARDISED_SYSTEM_PROMPT,
    SYSTEM_PROMPT,
    answer_format,
    answer_pattern,
    fault_of,
    format_asked,
    parse,
    render,
    render_answer,
    thoughts_of,
)
from tickerforge.features.synthetic import market
from tickerforge.features.units import to_model_units
from tickerforge.features.windows import build_windows

FULL = FeatureConfig()
PRICES = FeatureConfig(prompt_style="prices")


@pytest.fixture(scope="module")
def window() -> pd.Series:
    return build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=FULL).iloc[7]


def lines_of(window: pd.Series, config: FeatureConfig) -> dict[str, list[str]]:
    chat = render(window, config=config)
    assert [message["role"] for message in chat] == ["system", "user"]
    return {line.split()[0]: line.split()[1:] for line in chat[1]["content"].splitlines()}


def test_a_full_prompt_shows_every_feature(window: pd.Series) -> None:
    lines = lines_of(window, FULL)
    assert list(lines) == ["prices", *(label for label, _, _ in FULL_LINES), "forecast"]
    assert {label: len(lines[label]) for label, _, _ in FULL_LINES} == {
        label: len(columns) for label, columns, _ in FULL_LINES
    }
    for column in FEATURE_COLUMNS:
        changed = window.copy()
        changed[column] = window[column] + (20.0 if column not in ("lag_1", "lag_2", "lag_3") else 0.5)
        assert render(changed, config=FULL) != render(window, config=FULL), column


def test_a_prices_prompt_shows_no_feature(window: pd.Series) -> None:
    assert list(lines_of(window, PRICES)) == ["prices", "forecast"]
    bare = window.drop(list(FEATURE_COLUMNS))
    assert render(bare, config=PRICES) == render(window, config=PRICES)


def test_values_are_written_in_model_units(window: pd.Series) -> None:
    lines = lines_of(window, FULL)
    unit = window["sigma"] / 10

    def distance(price: float) -> str:
        return str(round(np.log(price / window["history"][-1]) / unit))

    assert lines["prices"] == [distance(price) for price in window["history"]]
    assert lines["prices"][-1] == "0"
    assert lines["averages"] == [distance(window[name]) for name in ("sma_20", "sma_60", "ema_20")]
    assert lines["rsi"] == [str(round(window["rsi_14"]))]
    assert lines["momentum"][0] == str(round(window["mom_10"] / window["history"][-1] / unit))
    assert lines["lags"] == [str(round(100 * window[f"lag_{lag}"])) for lag in (1, 2, 3)]
    assert lines["forecast"] == ["10"]
    assert render(window, config=FULL)[0]["content"] == SYSTEM_PROMPT


def test_prompts_hold_integers_only_and_none_beyond_the_clip(window: pd.Series) -> None:
    wild = window.copy()
    wild[list(FEATURE_COLUMNS)] = 1e9
    for values in lines_of(wild, FULL).values():
        assert all(re.fullmatch(r"-?\d{1,3}", value) and abs(int(value)) <= 300 for value in values)


def test_a_lower_band_below_zero_is_written_as_far_below(window: pd.Series) -> None:
    jumped = window.copy()
    jumped["bb_lower"] = -3.0
    assert lines_of(jumped, FULL)["bands"][2] == "-300"


@pytest.mark.parametrize("style", ["prices", "full"])
def test_train_standard_prompts_show_the_published_scores(window: pd.Series, style: str) -> None:
    config = FeatureConfig(units="train_standard", prompt_style=style)
    scores = (window["history"] - window["train_mean"]) / window["train_std"]
    assert lines_of(window, config)["prices"] == [f"{score:.4f}" for score in scores]
    assert render(window, config=config)[0]["content"] == STANDARDISED_SYSTEM_PROMPT


@given(st.lists(st.integers(-300, 300), min_size=10, max_size=10), st.text("abc .,\n0123456789[]", max_size=30))
def test_what_is_rendered_parses_back(values: list[int], think: str) -> None:
    assert parse(render_answer(values, think=think), horizon=10) == tuple(map(float, values))
    assert re.fullmatch(answer_pattern(10), render_answer(values))
    numbered = render_answer(values, think=think, style="numbered")
    assert parse(numbered, horizon=10) == tuple(map(float, values))
    assert re.fullmatch(answer_pattern(10, style="numbered"), render_answer(values, style="numbered"))


def test_the_system_prompt_shows_the_format_that_answers_must_have(window: pd.Series) -> None:
    for units in ("sigma", "train_standard"):
        for style in ("list", "numbered"):
            config = FeatureConfig(units=units, answer_style=style)
            chat = render(window, config=config)
            assert format_asked(chat) == answer_format(config)
            assert ("1:v1 2:v2 ..." in chat[0]["content"]) is (style == "numbered")
    assert render(window, config=FULL) == render(window, config=FeatureConfig(answer_style="list"))
    with pytest.raises(ValueError, match="no known format"):
        format_asked([{"role": "system", "content": "Answer as you like."}])


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_decimals_parse_back_to_four_places(values: list[float]) -> None:
    assert parse(render_answer(values, decimals=4), horizon=3) == pytest.approx(tuple(values), abs=5.1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "<think></think><answer>[1, 2, 3]</answer>",
        " <think>up\nthen down</think>\n<answer> [+1,2.0 , 3.] </answer>\n",
        "<think></think><answer>1:1 2:2 3:3</answer>",
        "<think></think><answer>\n1: 1.\n2: +2\n3: 3.0\n</answer>",
        "<think>a < b, b > c</think><answer>[1,2,3]</answer>",
    ],
)
def test_answers_are_read_through_harmless_spacing(text: str) -> None:
    assert parse(text, horizon=3) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2, 3]",
        "<answer>[1, 2, 3]</answer>",
        "<think></think>[1, 2, 3]",
        "<think></think><answer>1, 2, 3</answer>",
        "<think></think><answer>[1, 2]</answer>",
        "<think></think><answer>[1, 2, 3, 4]</answer>",
        "<think></think><answer>[1, 2, 3,]</answer>",
        "<think></think><answer>[1, , 3]</answer>",
        "<think></think><answer>[]</answer>",
        "<think></think><answer>[1 2 3]</answer>",
        "<think></think><answer>[1, 2, nan]</answer>",
        "<think></think><answer>[1, 2, NaN]</answer>",
        "<think></think><answer>[1, 2, inf]</answer>",
        "<think></think><answer>[1, 2, -Infinity]</answer>",
        "<think></think><answer>[1, 2, 1e5]</answer>",
        "<think></think><answer>[1, 2, 0x10]</answer>",
        "<think></think><answer>[1, 2, 1_0]</answer>",
        "<think></think><answer>[1, 2, ３]</answer>",
        "<think></think><answer>[1, 2, ٣]</answer>",
        "<think></think><answer>[1, 2, .]</answer>",
        "<think></think><answer>[1, 2, --3]</answer>",
        "<think></think><answer>[1, 2, - 3]</answer>",
        "<think></think><answer>[1, 2, 1000001]</answer>",
        f"<think></think><answer>[1, 2, {'9' * 400}]</answer>",
        "<think></think><answer>[1, 2, three]</answer>",
        "<think></think><answer>1:1 2:2</answer>",
        "<think></think><answer>1:1 2:2 3:3 4:4</answer>",
        "<think></think><answer>1:1 3:2 2:3</answer>",
        "<think></think><answer>1:1 1:2 2:3</answer>",
        "<think></think><answer>0:1 1:2 2:3</answer>",
        "<think></think><answer>01:1 02:2 03:3</answer>",
        "<think></think><answer>1:1 2: 3:3</answer>",
        "<think></think><answer>1:1 2:nan 3:3</answer>",
        "<think></think><answer>1:1 2:2 3:1000001</answer>",
        "<think></think><answer>1:1,2:2,3:3</answer>",
        "<think></think><answer>[1:1 2:2 3:3]</answer>",
        "<think></think><answer>1:1 2:2 3:3 or so</answer>",
        "<think></think><answer>1:1 2:2 3:3",
        "<think></think><answer>1.1 2.2 3.3</answer>",
        "<think></think><answer>[[1, 2, 3]]</answer>",
        "<think></think><answer>[1, 2, 3]</answer> and so on",
        "<think></think><answer>[1, 2, 3]</answer></answer>",
        "<think></think><answer>[1, 2, 3]</answer><answer>[1, 2, 3]</answer>",
        "<think></think><answer>[1, 2, 3] roughly</answer>",
        "<think></think><answer>about [1, 2, 3]</answer>",
        "Sure: <think></think><answer>[1, 2, 3]</answer>",
        "<think></think> so <answer>[1, 2, 3]</answer>",
        "<think><think></think></think><answer>[1, 2, 3]</answer>",
        "<think>a</think>b</think><answer>[1, 2, 3]</answer>",
        "<think><answer>[9, 9, 9]</answer></think><answer>[1, 2, 3]</answer>",
        "<think></answer></think><answer>[1, 2, 3]</answer>",
        "<think></think><answer>[1, 2, 3]</answer><think></think><answer>[1, 2, 3]</answer>",
        "<THINK></THINK><ANSWER>[1, 2, 3]</ANSWER>",
        "<think></think><answer>[1, 2, 3]",
        "<think><answer>[1, 2, 3]</answer>",
    ],
)
def test_anything_else_is_no_answer(text: str) -> None:
    assert parse(text, horizon=3) is None
    assert fault_of(text, horizon=3) is not None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<think>up</think><answer>[1, 2, 3]</answer>", None),
        ("", "tag"),
        ("<think></think><answer>[1, 2, 3]", "tag"),
        ("<answer>[1, 2, 3]</answer><think></think>", "tag"),
        ("<think></think><answer>[1, 2, 3]</answer></answer>", "tag"),
        ("Sure: <think></think><answer>[1, 2, 3]</answer>", "text"),
        ("<think></think><answer>[1, 2, 3]</answer> and so on", "text"),
        ("<think></think><answer>about [1, 2, 3]</answer>", "text"),
        ("<think></think><answer>[1, 2]</answer>", "count"),
        ("<think></think><answer>[]</answer>", "count"),
        ("<think></think><answer>[1, 2, three]</answer>", "value"),
        ("<think></think><answer>[1, 2, 1e5, 4]</answer>", "value"),
        ("<think></think><answer>[1, 2, 1000001]</answer>", "value"),
        ("<think></think><answer>1:1 2:2 3:3</answer>", None),
        ("<think></think><answer>1:1 3:2 4:3</answer>", "label"),
        ("<think></think><answer>1:1 2:2 2:3</answer>", "label"),
        ("<think></think><answer>1:1 2:2</answer>", "count"),
        ("<think></think><answer>1:1 2:2 3:up</answer>", "value"),
        ("<think></think><answer>1 2 3</answer>", "text"),
    ],
)
def test_a_text_that_is_no_answer_has_one_named_fault(text: str, fault: str | None) -> None:
    assert fault_of(text, horizon=3) == fault


def test_thoughts_are_what_stands_between_their_tags() -> None:
    assert thoughts_of(render_answer([1], think="it falls")) == "it falls"
    assert thoughts_of("<think>cut off") == thoughts_of("no tags") == ""


@given(st.text(max_size=200))
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    wrapped = f"<think></think><answer>[{text}]</answer>"
    assert parse(text, horizon=1) is None
    values = parse(wrapped, horizon=1)
    assert values is None or np.isfinite(values[0])


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("<think></think><answer>[1, -2]</answer>", True),
        ("<think>up</think><answer>[100, -200]</answer>", True),
        ("<think></think><answer>[1]</answer>", False),
        ("<think></think><answer>[1, 2, 3]</answer>", False),
        ("<think></think><answer>[1, nan]</answer>", False),
    ],
)
def test_the_pattern_for_constrained_decoding_admits_answers_only(text: str, fits: bool) -> None:
    assert bool(re.fullmatch(answer_pattern(2), text)) is fits
    assert (parse(text, horizon=2) is not None) is fits


def test_a_history_of_equal_prices_is_ten_zeros() -> None:
    assert to_model_units([7.0] * 10, origin_price=7.0, sigma=0.01).tolist() == [0] * 10


@pytest.mark.parametrize("style", ["list", "numbered"])
@pytest.mark.parametrize(("decimals", "think"), [(0, ""), (2, "up"), (4, "")])
def test_the_pattern_of_answers_allows_what_is_written_and_no_longer_thought(
    decimals: int, think: str, style: AnswerStyle
) -> None:
    pattern = answer_pattern(3, decimals=decimals, longest_think=2, style=style)
    values = [1.25, -3.5, 30.0]
    assert re.fullmatch(pattern, render_answer(values, think=think, decimals=decimals, style=style))
    assert not re.fullmatch(pattern, render_answer(values, think="flat", decimals=decimals, style=style))
    assert not re.fullmatch(pattern, render_answer(values, decimals=decimals + 1, style=style))
    assert not re.fullmatch(pattern, render_answer(values[:2], think=think, decimals=decimals, style=style))
