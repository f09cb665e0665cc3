"""What the report says in sentences: the evidence, the splits, and each picture's finding."""

import math

from tickerforge.evaluation.comparison.contamination import decisive, parity, split_phrase
from tickerforge.evaluation.core.contracts import BASE, DECIDING_METRIC, PERSISTENCE, POOLED, EvalReport, Split
from tickerforge.evaluation.core.labels import METRICS, listed, model_label, p_text, percent
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.evaluation.report.spread_plots import ticker_skills
from tickerforge.evaluation.report.trading import trading_finding

LEVEL = 0.05
UNKNOWN_SKILL = "how large its skill is cannot be told"
CALIBRATED = 0.05
"""Difference to the nominal coverage that is not worth a word."""


def evidence(report: EvalReport) -> str:
    """What the test split allows one to say, in one or two sentences."""
    model = report.chosen
    if model is None:
        return "No trained adapter was compared; the table holds the baselines and the base model only."
    split = decisive(report)
    gain = report.value(model, split=split, metric="skill") or 0.0
    label, where = model_label(model), split_phrase(report, split)
    among = f", chosen on validation among {report.n_candidates}," if report.n_candidates > 1 else ""
    test = report.test_of(model, split=split)
    if test is None or test.note:
        why = test.note if test else "no test was made"
        skill = METRICS["skill"].write(gain)
        return f"On {where} {label}{among} shows a skill of {skill}, and chance cannot be judged: {why}."
    if gain <= 0:
        return (
            f"On {where} {label}{among} is no better than repeating the last close: its squared error is "
            f"{percent(abs(gain))} above persistence's."
        )
    often = "fewer than 1 of 100" if test.p_value < 0.01 else f"{100 * test.p_value:.0f} of 100"
    return (
        f"On {where} {label}{among} has a squared error {percent(gain)} below persistence's ({p_text(test.p_value)}). "
        f"A forecaster without any advantage would look as good in {often} such test splits."
    )


def allowed(report: EvalReport) -> str:
    """In one sentence what the evidence allows one to say, the number of forecasters taken into account.

    Empty for a report of older code and where no adapter was compared.
    """
    found, model = report.superiority, report.chosen
    if found is None or model is None:
        return ""
    if found.note:
        return f"The evidence allows no statement on whether any of them is better than doing nothing: {found.note}."
    label, write = model_label(model), METRICS["skill"].write
    interval = found.skill_intervals.get(model)
    low, high = interval or (-math.inf, math.inf)
    known = f"its skill lies between {write(low)} and {write(high)} (95 %)" if interval else UNKNOWN_SKILL
    tried = f"over the {len(found.candidates)} trained or sampled forecasters {p_text(found.p_value)}"
    equals = len(found.confidence_set)
    best = f"{equals} of {len(report.models)} forecasters may be the best of all"
    best += ", persistence among them" if PERSISTENCE in found.confidence_set else ", and persistence is not"
    test = report.test_of(model, split=decisive(report))
    alone = test.p_value if test else 1.0
    if low > 0 and found.p_value <= LEVEL and alone <= LEVEL:
        claim = f"The evidence allows one to say that {label} is better than repeating the last close: "
    elif high < 0:
        claim = f"The evidence allows one to say that {label} is worse than repeating the last close: "
    elif alone <= LEVEL:
        claim = (
            f"The evidence speaks for {label} without settling it: tested by itself it is better than repeating the "
            f"last close ({p_text(alone)}), but "
        )
    else:
        claim = f"The evidence does not tell {label} from repeating the last close: "
    return f"{claim}{known}, {tried}, and {best} (confidence set at {percent(found.confidence, decimals=0)})."


def pooling(report: EvalReport) -> str:
    """What training on all tickers together brought this one, and what its own training added; empty without a pool."""
    model = report.chosen
    if POOLED not in report.models or model is None:
        return ""
    split = decisive(report)
    errors = {name: report.value(name, split=split, metric=DECIDING_METRIC) or 0.0 for name in report.models}
    own = skill(errors[model], errors[POOLED])
    test = report.test_of(model, split=split, against=POOLED)
    chance = f" ({p_text(test.p_value)})" if test and not test.note else ""
    pooled = _against(skill(errors[POOLED], errors[PERSISTENCE]), "persistence's")
    if BASE in errors:
        pooled += " and " + _against(skill(errors[POOLED], errors[BASE]), "the base model's")
    added = _against(own, "the pooled adapter's")
    return (
        f"What pooling bought: the pooled adapter, from which training started, has on "
        f"{split_phrase(report, split)} a squared error {pooled} before any training on {report.ticker} alone; after "
        f"it {model_label(model)}'s is {added}{chance}."
    )


def _against(gain: float, whose: str) -> str:
    return f"equal to {whose}" if gain == 0 else f"{percent(abs(gain))} {'below' if gain > 0 else 'above'} {whose}"


def split_words(report: EvalReport, split: Split) -> str:
    """Which windows a split's figures rest on."""
    summary = report.summary(split)
    tickers = sum(row.split == split for row in report.tickers)
    thinned = "" if summary.windows == summary.available else f" of {summary.available}, evenly spaced"
    of = f" (tickers: {tickers})" if tickers else ""
    together = "They overlap, and those of one date count as one: they" if tickers else "They overlap, and"
    mark = parity(report, split)
    return (
        f"{mark + ' ' if mark else ''}{summary.windows} windows{thinned}{of}, forecast from "
        f"{summary.first_origin:%-d %B %Y} to {summary.last_origin:%-d %B %Y}, the last target on "
        f"{summary.last_target:%-d %B %Y}. {together} hold no more evidence than {summary.independent} separate ones."
    )


def picture_words(report: EvalReport, *, model: str) -> dict[str, tuple[str, str]]:
    """For each picture a heading that states its finding and a text that stands in for it."""
    label = model_label(model)
    return {
        "skill": (_skill_heading(report), _skill_text(report)),
        "forecasts": (
            f"{_where(report)} windows one by one: {label} against what came",
            f"{_where(report)} windows evenly spaced in time. Dots: the adjusted close before and after the origin. "
            f"Coloured: the median forecast of {label} and the band that should hold "
            f"{percent(report.interval, decimals=0)} of the prices. Dashed: persistence.",
        ),
        "series": (
            _coverage_heading(report, model=model),
            f"Above, the adjusted close with the train, validation and test splits. Below, the test split with every "
            f"forecast of {label} that does not overlap the one before.",
        ),
        "horizon": (
            _horizon_heading(report, model=model),
            "Left: root mean squared error of the log return for each session ahead, in daily standard deviations; a "
            "random walk's grows with the square root of the distance. Right: the skill against persistence at each "
            "distance, shaded where it is known to 95 %; lines that leave the picture at the bottom are worse still.",
        ),
        "tickers": (
            _ticker_heading(report, model=model),
            f"The skill of {label} against persistence on each ticker's test windows, lowest first, with its 95 % "
            "interval where so few windows allow one.",
        ),
        "calibration": (
            _calibration_heading(report, model=model),
            f"Left: how many of the test prices fell into each tenth of {label}'s predictive distribution; a valley is "
            "too narrow, a hill too wide, a slope biased. Right: how much the 50 %, 80 % and 95 % bands of every "
            "sampled forecaster held.",
        ),
        "trading": (
            trading_finding(report) or "What became of the capital by each rule",
            f"The capital of each rule by {label}, by drift and by persistence, which never trades, and of buying and "
            "holding, at each session's open, costs paid; the start is 1.",
        ),
        "training": (
            "What training did, step by step",
            "Reward of each GRPO stage and loss of SFT by step, and the share of sampled answers that parse. Thin: as "
            "logged. Thick: a running mean.",
        ),
    }


def _where(report: EvalReport) -> str:
    where = split_phrase(report, decisive(report))
    return f"{where[0].upper()}{where[1:]}" + (" (parity only)" if parity(report, decisive(report)) else "")


def _skill_heading(report: EvalReport) -> str:
    gains = {m: report.value(m, split="test", metric="skill") or 0.0 for m in report.models if m != PERSISTENCE}
    better = [model_label(model) for model, gain in gains.items() if gain > 0]
    if not better:
        return "Nothing beats persistence on test"
    names = listed(better)
    return f"{names} {'have' if len(better) > 1 else 'has'} a smaller squared error than persistence on test"


def _skill_text(report: EvalReport) -> str:
    skill = METRICS["skill"]
    figures = [
        f"{model_label(model)} {skill.write(report.value(model, split='validation', metric='skill'))} and "
        f"{skill.write(report.value(model, split='test', metric='skill'))}"
        for model in report.models
        if model != PERSISTENCE
    ]
    return "Skill against persistence on validation and on test: " + "; ".join(figures) + "."


def _coverage_heading(report: EvalReport, *, model: str) -> str:
    inside = report.value(model, split="test", metric="coverage")
    nominal = percent(report.interval, decimals=0)
    if inside is None:
        return "The series and its forecasts"
    return f"{percent(inside)} of the test prices fall inside the {nominal} band"


def _ticker_heading(report: EvalReport, *, model: str) -> str:
    skills = ticker_skills(report, model=model, split="test")
    better = sum(value > 0 for value in skills.values())
    return f"{model_label(model)} beats persistence on {better} of {len(skills)} tickers"


def _calibration_heading(report: EvalReport, *, model: str) -> str:
    held = report.value(model, split="test", metric="coverage_80") if "coverage_80" in _metrics(report) else None
    if held is None:
        return "Calibration of the predictive distribution"
    gap = held - 0.8
    kind = "about as wide as they should be" if abs(gap) <= CALIBRATED else "too narrow" if gap < 0 else "too wide"
    return f"The bands are {kind}: the 80 % band held {percent(held)}"


def _metrics(report: EvalReport) -> set[str]:
    return {row.metric for row in report.metrics}


def _horizon_heading(report: EvalReport, *, model: str) -> str:
    rows = [row for row in report.metrics if row.split == "test" and row.horizon is not None]
    better = sum((row.values[model] or 0.0) < (row.values[PERSISTENCE] or 0.0) for row in rows)
    return f"{model_label(model)} beats persistence at {better} of {len(rows)} distances"
