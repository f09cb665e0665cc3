"""What the model reads and writes: `render` and `parse` side by side, so that they stay consistent."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tickerforge.features.config import AnswerStyle, FeatureConfig
from tickerforge.features.units import CLIP, UNITS_PER_SIGMA, to_model_units


class ChatMessage(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Chat = list[ChatMessage]

SYSTEM_PROMPT = (
    "You forecast daily closing prices of one stock. All prices are integers relative to the last close: 10 is one "
    "daily standard deviation of log returns, 0 is the last close itself. Think briefly inside <think></think>, then "
    "answer with exactly the requested number of integers, one per coming session: <answer>[v1, v2, ...]</answer>"
)
STANDARDISED_SYSTEM_PROMPT = (
    "You forecast daily closing prices of one stock. All prices are standardised by the mean and standard deviation "
    "of the training period; in the lines of indicators 10 is one daily standard deviation of log returns and 0 the "
    "last close. Think briefly inside <think></think>, then answer with exactly the requested number of "
    "decimals, one per coming session: <answer>[v1, v2, ...]</answer>"
)
DECIMALS = 4
"""Decimals of a standardised price."""


@dataclass(frozen=True)
class AnswerFormat:
    """How answers are written: the style of the list of values, and their decimals (0 in model units)."""

    style: AnswerStyle = "list"
    decimals: int = 0

    @property
    def system_prompt(self) -> str:
        """The system prompt that asks for this format."""
        text = STANDARDISED_SYSTEM_PROMPT if self.decimals else SYSTEM_PROMPT
        return text if self.style == "list" else text.replace("[v1, v2, ...]", "1:v1 2:v2 ...")


def answer_format(config: FeatureConfig) -> AnswerFormat:
    """Return the format of the answers that a configuration asks for; a list unless it says otherwise."""
    return AnswerFormat(config.answer_style or "list", decimals=0 if config.units == "sigma" else DECIMALS)


def format_asked(chat: Chat) -> AnswerFormat:
    """Return the format that a prompt asks for.

    Raises:
        ValueError: If its system message is none of ours.
    """
    for style in get_args(AnswerStyle):
        for decimals in (0, DECIMALS):
            asked = AnswerFormat(style, decimals)
            if chat[0]["content"] == asked.system_prompt:
                return asked
    raise ValueError("the prompt asks for no known format of answers")


# Label in the prompt, feature columns behind it, and how a value is written: "distance" and "move" are USD turned into
# model units (a level relative to the last close, or a difference); "plain" is rounded; "percent" is ×100, rounded.
FULL_LINES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("averages", ("sma_20", "sma_60", "ema_20"), "distance"),
    ("bands", ("bb_upper", "bb_middle", "bb_lower"), "distance"),
    ("range", ("min", "max", "mean", "median"), "distance"),
    ("rsi", ("rsi_14",), "plain"),
    ("stoch", ("stoch_k", "stoch_d"), "plain"),
    ("willr", ("willr_14",), "plain"),
    ("cci", ("cci_14",), "plain"),
    ("adx", ("adx_14",), "plain"),
    ("momentum", ("mom_10", "macd", "trend"), "move"),
    ("lags", ("lag_1", "lag_2", "lag_3"), "percent"),
)
FEATURE_COLUMNS: tuple[str, ...] = tuple(column for _, columns, _ in FULL_LINES for column in columns)

_ANSWER = re.compile(
    r"\s*<think>(?P<think>.*?)</think>\s*<answer>\s*(?:\[(?P<list>[^\[\]<>]*)\]|(?P<numbered>[0-9][^\[\]<>]*?))\s*"
    r"</answer>\s*",
    re.DOTALL,
)
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", re.ASCII)
"""A value of an answer."""
NUMBERED = re.compile(rf"(?P<label>\d+):\s?(?P<value>{NUMBER.pattern})", re.ASCII)
"""A value with its number, counted from 1."""
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_IN_TAGS = re.compile(
    r"(?P<before>.*)<think>.*</think>(?P<between>.*)<answer>(?P<body>.*)</answer>(?P<after>.*)", re.DOTALL
)
_LIST = re.compile(r"\[(?P<values>[^\[\]<>]*)\]")
_LABEL = re.compile(r"\d+:", re.ASCII)
_LARGEST = 1e6

Fault = Literal["tag", "text", "label", "value", "count"]
"""What keeps a text from being an answer; see `fault_of`."""


def answer_pattern(
    horizon: int, *, decimals: int = 0, style: AnswerStyle = "list", longest_think: int | None = None
) -> str:
    """Return the regular expression of the answers that constrained decoding allows.

    Every match also parses with this `horizon`, but `parse` accepts more. The expression has no capturing groups and
    no look-around, so that guided decoders accept it.

    Args:
        horizon: Values in an answer.
        decimals: Most decimals of a value; 0 for integer units.
        style: Style of the answer.
        longest_think: Most characters between the think tags; `None` for no limit.
    """
    number = r"-?[0-9]{1,3}" + (rf"(\.[0-9]{{1,{decimals}}})?" if decimals else "")
    think = "[^<]*" if longest_think is None else f"[^<]{{0,{longest_think}}}"
    values = rf"\[{number}(, ?{number}){{{horizon - 1}}}\]"
    if style == "numbered":
        values = " ".join(f"{label}:{number}" for label in range(1, horizon + 1))
    return f"<think>{think}</think><answer>{values}</answer>"


def shown_numbers(windows: pd.DataFrame, *, config: FeatureConfig) -> list[tuple[str, NDArray[Any]]]:
    """Compute what the prompts of windows show, line by line.

    Args:
        windows: Windows frame: `history` (USD, arrays of shape `(context,)`), `sigma` and, for the full style, the
            feature columns; for `units="train_standard"` also `train_mean` and `train_std`.
        config: Units and prompt style.

    Returns:
        Labels with arrays of shape `(n_windows, values)`, in the order of the prompt; integers, except
        standardised prices.
    """
    history = np.stack(list(windows["history"])).astype(np.float64)
    sigma = windows["sigma"].to_numpy(np.float64)
    if config.units == "train_standard":
        mean, deviation = (windows[name].to_numpy(np.float64)[:, None] for name in ("train_mean", "train_std"))
        prices: NDArray[Any] = (history - mean) / deviation
    else:
        prices = to_model_units(history, origin_price=history[:, -1], sigma=sigma)
    lines = [("prices", prices)]
    if config.prompt_style == "full":
        for label, columns, kind in FULL_LINES:
            raw = windows[list(columns)].to_numpy(np.float64)
            lines.append((label, _feature_values(raw, kind, origin=history[:, -1], sigma=sigma)))
    return lines


def _feature_values(
    raw: NDArray[np.float64], kind: str, *, origin: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.int64]:
    match kind:
        case "distance":
            # A lower band can be below zero after a jump: it is written as far below the last close as possible.
            return to_model_units(np.maximum(raw, np.finfo(np.float64).tiny), origin_price=origin, sigma=sigma)
        case "move":
            scaled = raw / (origin * (sigma / UNITS_PER_SIGMA))[:, None]
        case "percent":
            scaled = raw * 100.0
        case _:
            scaled = raw
    return np.clip(np.rint(scaled), -CLIP, CLIP).astype(np.int64)


def render_all(windows: pd.DataFrame, *, config: FeatureConfig) -> list[Chat]:
    """Write the chats that ask for the forecasts of windows, in the frame's order.

    Args:
        windows: As for `shown_numbers`.
        config: Units and prompt style.

    Returns:
        For each window a system and a user message. Nothing in them depends on data after the window's origin.
    """
    if windows.empty:
        return []
    standardised = config.units == "train_standard"
    texts = []
    for label, values in shown_numbers(windows, config=config):
        write = "{:.4f}".format if standardised and label == "prices" else str
        texts.append([f"{label} {' '.join(map(write, row))}" for row in values.tolist()])
    system: ChatMessage = {"role": "system", "content": answer_format(config).system_prompt}
    asked = f"forecast {config.horizon}"
    return [
        [system.copy(), {"role": "user", "content": "\n".join([*lines, asked])}] for lines in zip(*texts, strict=True)
    ]


def render(window: Mapping[str, Any], *, config: FeatureConfig) -> Chat:
    """Write the chat that asks for one window's forecast; see `render_all`."""
    return render_all(pd.DataFrame([dict(window)]), config=config)[0]


def render_answer(
    values: Sequence[float] | np.ndarray, *, think: str = "", decimals: int = 0, style: AnswerStyle = "list"
) -> str:
    """Write the answer that a model should give for `values` (model units, shape `(horizon,)`)."""
    cells = [f"{value:.{decimals}f}" if decimals else str(round(float(value))) for value in values]
    if style == "numbered":
        written = " ".join(f"{label}:{cell}" for label, cell in enumerate(cells, start=1))
    else:
        written = f"[{', '.join(cells)}]"
    return f"<think>{think}</think><answer>{written}</answer>"


def thoughts_of(text: str) -> str:
    """Return what a text has between the think tags; empty if it does not have both."""
    _, _, after = text.partition("<think>")
    thoughts, closed, _ = after.partition("</think>")
    return thoughts if closed else ""


def parse(text: str, *, horizon: int) -> tuple[float, ...] | None:
    """Read the numbers of an answer in either style; `None` if the text is not exactly an answer.

    These are rejected: a missing or repeated tag, anything before `<think>` or after `</answer>`, another number of
    values than `horizon`, labels that do not count from 1 to `horizon`, anything that is not a plain decimal number
    (`nan`, `inf`, `1e5`, words), and values beyond ±1e6.
    """
    match = _ANSWER.fullmatch(text)
    if match is None or any(tag in match["think"] for tag in _TAGS):
        return None
    cells = _list_cells(match["list"]) if match["list"] is not None else _numbered_cells(match["numbered"])
    if len(cells) != horizon or not all(NUMBER.fullmatch(cell) for cell in cells):
        return None
    values = tuple(float(cell) for cell in cells)
    return values if all(math.isfinite(value) and abs(value) <= _LARGEST for value in values) else None


def fault_of(text: str, *, horizon: int) -> Fault | None:
    """Name what keeps a text from being an answer in either style; `None` if `parse` accepts it.

    Returns:
        The first of these that applies: `tag`, if one of the four tags is missing, repeated or out of order; `text`, if
        there is more than spaces outside the tags, or around the values; `label`, if the labels of a numbered answer do
        not count from 1; `value`, if one is not a plain decimal number; `count`, if there are more or fewer values than
        `horizon`; `value` again, if one is beyond ±1e6.
    """
    if parse(text, horizon=horizon) is not None:
        return None
    parts = _IN_TAGS.fullmatch(text)
    if parts is None or any(text.count(tag) != 1 for tag in _TAGS):
        return "tag"
    body = parts["body"].strip()
    listed = _LIST.fullmatch(body)
    is_numbered = _LABEL.match(body) is not None
    if any(parts[name].strip() for name in ("before", "between", "after")) or not (listed or is_numbered):
        return "text"
    if listed:
        cells = _list_cells(listed["values"]) if listed["values"].strip() else []
    else:
        entries = [entry.partition(":") for entry in _numbered_entries(body)]
        if [label for label, _, _ in entries] != [str(label) for label in range(1, len(entries) + 1)]:
            return "label"
        cells = [cell.strip() for _, _, cell in entries]
    if not all(NUMBER.fullmatch(cell) for cell in cells):
        return "value"
    return "count" if len(cells) != horizon else "value"


def _list_cells(text: str) -> list[str]:
    return [cell.strip() for cell in text.split(",")]


def _numbered_entries(text: str) -> list[str]:
    return re.split(r"\s+(?=\d+:)", text)


def _numbered_cells(text: str) -> list[str]:
    """Return the values behind the labels; none if a label is missing, wrong or repeated."""
    found = [NUMBERED.fullmatch(entry) for entry in _numbered_entries(text)]
    cells = [match["value"] for label, match in enumerate(found, start=1) if match and match["label"] == str(label)]
    return cells if len(cells) == len(found) else []
