"""Names, definitions and number formats of forecasters and metrics in tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tickerforge.evaluation.core.contracts import (
    BASE,
    CURRENT_CHAMPION,
    DRIFT,
    PERSISTENCE,
    POOLED,
    RANDOM_WALK,
    RANDOM_WALK_HAR,
    WINDOW_MEAN,
)
from tickerforge.features.price_text import price_decimals
from tickerforge.features.stages import ADAPTER_STAGES, GRPO_1ST, GRPO_2ND, SFT

MODEL_LABELS: dict[str, str] = {
    PERSISTENCE: "Persistence",
    WINDOW_MEAN: "Mean of window",
    RANDOM_WALK: "Random walk",
    RANDOM_WALK_HAR: "Random walk (HAR)",
    DRIFT: "Drift",
    BASE: "Base model",
    POOLED: "Pooled adapter",
    **{stage.name: stage.label for stage in ADAPTER_STAGES},
    CURRENT_CHAMPION: "Current champion",
}

MODEL_DEFINITIONS: dict[str, str] = {
    PERSISTENCE: "the last close, repeated: the best point forecast of a random walk",
    WINDOW_MEAN: "the mean of the closes in the window, repeated",
    RANDOM_WALK: "the percentiles of the moves of the train windows, scaled by σ and the root of the distance",
    RANDOM_WALK_HAR: "the same, scaled by the volatility that a regression on the ranges of the last 1, 5 and 22 "
    "sessions and on σ expects (HAR)",
    DRIFT: "the last close plus the mean daily change over the train rows, with the spread of the random walk",
    BASE: "the language model before any training here",
    POOLED: "the adapter that was trained on all tickers together, from which training started here",
    GRPO_1ST.name: "its adapter after the first reinforcement stage",
    SFT.name: "its adapter after fine-tuning on the best of its own sampled answers",
    GRPO_2ND.name: "that adapter after a second reinforcement stage",
    CURRENT_CHAMPION: "the adapter that holds the champion alias now",
}


@dataclass(frozen=True)
class Metric:
    """The format of a metric; `best` is the better direction, or empty if no row is marked.

    Without `decimals`, the size of the figure decides, as for a price.
    """

    label: str
    unit: str
    best: Literal["low", "high", ""]
    definition: str
    percent: bool = False
    decimals: int | None = 4
    signed: bool = False

    @property
    def header(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def write(self, value: float | None) -> str:
        """Write the figure as text; an en dash for a missing one."""
        if value is None or value != value:
            return "–"
        decimals = price_decimals(value) if self.decimals is None else self.decimals
        if self.label.partition(" ")[0] == "p" and value < 10**-decimals:
            return f"< {10**-decimals:g}"
        sign = "+" if self.signed else ""
        text = f"{100 * value if self.percent else value:{sign},.{decimals}f}"
        text = text.lstrip("+-") if float(text.replace(",", "")) == 0 else text
        return text.replace("-", "−") + (" %" if self.percent else "")


METRICS: dict[str, Metric] = {
    "skill": Metric(
        "Skill",
        "",
        "high",
        "1 − scaled MSE / persistence's scaled MSE: the gain of the median. Above zero is better than doing nothing.",
        percent=True,
        decimals=1,
        signed=True,
    ),
    "p_value": Metric(
        "p",
        "",
        "",
        "probability of such an advantage over persistence if there were none: one-sided Diebold-Mariano test for "
        "overlapping windows.",
        decimals=3,
    ),
    "scaled_mse": Metric(
        "Scaled MSE",
        "daily variances",
        "low",
        "mean of (ln(price / forecast) / σ)², where σ is the standard deviation of daily log returns over the 60 "
        "sessions before the forecast; sentences call it the squared error.",
        decimals=3,
    ),
    "mse": Metric(
        "MSE",
        "z",
        "low",
        "published protocol: mean squared error of Adj Close, standardised by the "
        "mean and standard deviation of the train rows.",
    ),
    "mae": Metric("MAE", "z", "low", "published protocol: mean absolute error of the same."),
    "skill_published": Metric(
        "Skill", "z", "high", "published protocol: 1 − MSE / persistence's MSE.", percent=True, decimals=1, signed=True
    ),
    "rmse_usd": Metric("RMSE", "price", "low", "root mean squared error of Adj Close, in its currency.", decimals=None),
    "mae_usd": Metric("MAE", "price", "low", "mean absolute error of Adj Close, in its currency.", decimals=None),
    "directional_accuracy": Metric(
        "Direction",
        "",
        "high",
        "share of windows whose move to the last session has the forecast sign; no move counts one half.",
        percent=True,
        decimals=1,
    ),
    "mase": Metric(
        "MASE",
        "",
        "low",
        "mean absolute error over that of persistence on the train rows, 1 to 10 sessions ahead.",
        decimals=3,
    ),
    "mcc": Metric(
        "MCC",
        "",
        "high",
        "Matthews correlation of the forecast and the actual sign of the move to the last session: 0 is a coin toss, "
        "and so is always forecasting up.",
        decimals=3,
        signed=True,
    ),
    "rank_ic": Metric(
        "Rank IC",
        "",
        "high",
        "Spearman rank correlation of the forecast and the actual move to the last session, in σ.",
        decimals=3,
        signed=True,
    ),
    "daily_rank_ic": Metric(
        "Daily rank IC",
        "",
        "high",
        "Spearman correlation of expected and actual move over the tickers of a date, mean over dates; a pool only.",
        decimals=3,
        signed=True,
    ),
    "daily_ic": Metric(
        "Daily IC", "", "high", "the same with Pearson's correlation of the moves.", decimals=3, signed=True
    ),
    "daily_rank_ic_t": Metric(
        "t of rank IC", "", "high", "its mean over its Newey-West standard error.", decimals=2, signed=True
    ),
    "icir": Metric(
        "ICIR", "", "high", "mean daily rank IC over its standard deviation over dates.", decimals=2, signed=True
    ),
    "decile_spread": Metric(
        "Decile spread",
        "",
        "high",
        "log return over the horizon of the tenth of the tickers expected to rise most minus that of the lowest tenth, "
        "after costs; mean over dates.",
        percent=True,
        decimals=1,
        signed=True,
    ),
    "pinball": Metric(
        "Pinball",
        "σ",
        "low",
        "mean pinball loss of the nine deciles of the sampled answers; for a baseline half its absolute error.",
        decimals=3,
    ),
    "coverage_50": Metric("In 50 %", "", "", "share of prices inside the 50 % band.", percent=True, decimals=1),
    "coverage_80": Metric("In 80 %", "", "", "share of prices inside the 80 % band.", percent=True, decimals=1),
    "coverage_95": Metric(
        "In 95 %",
        "",
        "",
        "share of prices inside the 95 % band; with fewer than 39 samples the band is their range, which is narrower.",
        percent=True,
        decimals=1,
    ),
    "width": Metric("Width", "σ", "", "mean width of the forecast band.", decimals=2),
    "coverage": Metric(
        "In band",
        "",
        "",
        "share of prices inside the forecast band; best near the band's nominal share.",
        percent=True,
        decimals=1,
    ),
    "crps": Metric(
        "CRPS",
        "σ",
        "low",
        "continuous ranked probability score of the members as issued, in daily standard deviations; without members "
        "the absolute error.",
        decimals=3,
    ),
    "crps_skill": Metric(
        "CRPS skill",
        "",
        "high",
        "1 − CRPS / the random walk's CRPS: the gain of the whole distribution. This figure decides.",
        percent=True,
        decimals=1,
        signed=True,
    ),
    "crps_p": Metric(
        "p of CRPS",
        "",
        "",
        "probability of such a CRPS, compared with the random walk's, without any advantage: Diebold-Mariano as for p.",
        decimals=3,
    ),
    "qlike": Metric(
        "QLIKE",
        "",
        "low",
        "x − ln x − 1 for x = realised / forecast variance of the sessions ahead; realised by the daily ranges, scaled "
        "to returns on the train windows.",
        decimals=3,
    ),
    "qlike_squared": Metric(
        "QLIKE, returns", "", "low", "the same, realised by squared returns, which are noisier.", decimals=3
    ),
    "members": Metric("Members", "", "", "mean number of samples of a forecast.", decimals=0),
    **{
        name: metric
        for tail in ("1", "5")
        for name, metric in {
            f"var_{tail}": Metric(
                f"Below {tail} %",
                "",
                "",
                f"share of the next session's prices below the {tail} % quantile (value at risk); missing with fewer "
                f"than {99 if tail == '1' else 19} members.",
                percent=True,
                decimals=1,
            ),
            f"kupiec_{tail}": Metric(
                f"p of {tail} %", "", "", f"probability of that share if {tail} % is right: Kupiec's test.", decimals=3
            ),
            f"christoffersen_{tail}": Metric(
                f"p of {tail} %, runs", "", "", "the same, and of no runs: Christoffersen's test.", decimals=3
            ),
            f"var_{tail}_rejected": Metric(
                f"{tail} % rejected",
                "",
                "",
                "share of the tickers whose Christoffersen test rejects at 5 %.",
                percent=True,
                decimals=0,
            ),
        }.items()
    },
    "valid_rate": Metric(
        "Valid",
        "",
        "",
        "share of sampled answers that parse; a window without one is scored as the random walk.",
        percent=True,
        decimals=1,
    ),
    "answered": Metric(
        "Answered", "", "", "share of windows with at least one valid answer.", percent=True, decimals=1
    ),
}


def model_label(model: str) -> str:
    """Return the name of a model in reports."""
    return MODEL_LABELS.get(model, model)


def model_phrase(model: str) -> str:
    """Name a model within a sentence: `persistence`, `the random walk (HAR)`, `the current champion`, `SFT`."""
    label = model_label(model)
    articles = {RANDOM_WALK: "the ", RANDOM_WALK_HAR: "the ", CURRENT_CHAMPION: "the ", POOLED: "the ", BASE: "the "}
    lower = model in (*articles, PERSISTENCE, DRIFT, WINDOW_MEAN)
    return articles.get(model, "") + (label[0].lower() + label[1:] if lower else label)


def percent(value: float, *, decimals: int = 1, against: float | None = None) -> str:
    """Write a share as text, without a sign; with more decimals if it would otherwise look equal to `against`."""
    if against is not None and value != against:
        limit = decimals + 3
        while decimals < limit and f"{100 * value:.{decimals}f}" == f"{100 * against:.{decimals}f}":
            decimals += 1
    return f"{100 * value:.{decimals}f} %"


def listed(parts: Sequence[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def p_text(value: float, *, against: float | None = None) -> str:
    """Write a p-value; with more decimals if it would otherwise look equal to `against`."""
    written = METRICS["p_value"].write(value)
    if written.startswith("<"):
        return f"p {written}"
    if against is not None and value != against and written == METRICS["p_value"].write(against):
        written = f"{value:.6f}"
    return f"p = {written}"
