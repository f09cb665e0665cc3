"""The sentences of the report: the evidence, the splits, trading, and the finding of each picture."""

import math

import numpy as np

from tickerforge.evaluation.comparison.contamination import PARITY_ONLY, decisive, parity, split_phrase
from tickerforge.evaluation.core.contracts import (
    BASE,
    DECIDING_METRIC,
    DRIFT,
    PERSISTENCE,
    POOLED,
    RANDOM_WALK,
    SIGNIFICANCE,
    Account,
    EvalReport,
    ScoredSplit,
)
from tickerforge.evaluation.core.labels import METRICS, listed, model_label, model_phrase, p_text, percent
from tickerforge.evaluation.metrics.accuracy import skill
from tickerforge.evaluation.report.tables import ACCOUNT_COLUMNS, RULE_LABELS, sampled_models, ticker_skills

UNKNOWN_SKILL = "the size of its skill is unknown"
CALIBRATED = 0.05
"""Largest difference from the nominal coverage at which bands count as calibrated."""


def evidence(report: EvalReport) -> str:
    """Say in one or two sentences what the test split shows about the chosen adapter."""
    model = report.chosen
    if model is None:
        return "No trained adapter was compared; the table has only the free forecasters and the base model."
    split = decisive(report)
    gain = report.value(model, split=split, metric="crps_skill") or 0.0
    label, where = model_label(model), split_phrase(report, split)
    among = f", chosen on validation among {report.n_candidates}," if report.n_candidates > 1 else ""
    test = report.test_of(model, split=split, against=RANDOM_WALK, loss="crps")
    if test is None or test.note:
        why = test.note if test else "no test was made"
        skill = METRICS["crps_skill"].write(gain)
        return f"On {where} {label}{among} has a CRPS skill of {skill}; this cannot be tested against chance: {why}."
    if gain <= 0:
        return (
            f"On {where} {label}{among} is no better than the random walk: its CRPS is {percent(abs(gain))} above the "
            f"random walk's.{_free(report, split)}"
        )
    often = "fewer than 1 of 100" if test.p_value < 0.01 else f"{100 * test.p_value:.0f} of 100"
    return (
        f"On {where} {label}{among} has a CRPS {percent(gain)} below the random walk's ({p_text(test.p_value)}). "
        f"A forecaster without any advantage would do as well in {often} such test splits.{_free(report, split)}"
    )


def _free(report: EvalReport, split: ScoredSplit) -> str:
    """Say how good the best free forecaster is, if it is not the random walk itself."""
    if report.free in (None, RANDOM_WALK):
        return ""
    gain = report.value(report.free, split=split, metric="crps_skill") or 0.0
    where = _against(gain, "the random walk's")
    return f" The best free forecast on validation is {model_phrase(report.free)}: its CRPS is {where}."


def allowed_claim(report: EvalReport) -> str:
    """Say in one sentence what the evidence supports, corrected for the number of forecasters.

    Empty for a report of older code and if no adapter was compared.
    """
    found, model = report.whole_superiority, report.chosen
    if found is None or model is None:
        return ""
    if found.note:
        return f"The evidence does not show whether any of them is better than the random walk: {found.note}."
    label, write = model_label(model), METRICS["crps_skill"].write
    interval = found.skill_intervals.get(model)
    low, high = interval or (-math.inf, math.inf)
    known = f"its CRPS skill is between {write(low)} and {write(high)} (95 %)" if interval else UNKNOWN_SKILL
    tried = f"tested together, the {len(found.candidates)} trained or sampled forecasters have {p_text(found.p_value)}"
    equals = len(found.confidence_set)
    best = f"{equals} of {len(report.models)} forecasters may be the best"
    best += ", the random walk among them" if RANDOM_WALK in found.confidence_set else ", and the random walk is not"
    test = report.test_of(model, split=decisive(report), against=RANDOM_WALK, loss="crps")
    alone = test.p_value if test else 1.0
    if low > 0 and found.p_value <= SIGNIFICANCE and alone <= SIGNIFICANCE:
        claim = f"The evidence shows that {label} is better than the random walk: "
    elif high < 0:
        claim = f"The evidence shows that {label} is worse than the random walk: "
    elif alone <= SIGNIFICANCE:
        claim = (
            f"The evidence favours {label} but is not conclusive: tested alone it is better than the random walk "
            f"({p_text(alone)}), but "
        )
    else:
        claim = f"The evidence does not show that {label} differs from the random walk: "
    return f"{claim}{known}, {tried}, and {best} (confidence set at {percent(found.confidence, decimals=0)})."


def pooling(report: EvalReport) -> str:
    """Say what training on all tickers gained for this one, and what its own training added; empty without a pool."""
    model = report.chosen
    if POOLED not in report.models or model is None:
        return ""
    split = decisive(report)
    errors = {name: report.value(name, split=split, metric=DECIDING_METRIC) or 0.0 for name in report.models}
    own = skill(errors[model], errors[POOLED])
    test = report.test_of(model, split=split, against=POOLED, loss=DECIDING_METRIC)
    chance = f" ({p_text(test.p_value)})" if test and not test.note else ""
    pooled = _against(skill(errors[POOLED], errors[RANDOM_WALK]), "the random walk's")
    if BASE in errors:
        pooled += " and " + _against(skill(errors[POOLED], errors[BASE]), "the base model's")
    added = _against(own, "the pooled adapter's")
    return (
        f"What pooling gained: on {split_phrase(report, split)} the pooled adapter, from which training started, has a "
        f"CRPS {pooled}. After training on {report.ticker} alone, {model_label(model)}'s is {added}{chance}."
    )


def _against(gain: float, whose: str) -> str:
    return f"equal to {whose}" if gain == 0 else f"{percent(abs(gain))} {'below' if gain > 0 else 'above'} {whose}"


def split_words(report: EvalReport, split: ScoredSplit) -> str:
    """Say which windows the figures of a split are from."""
    summary = report.summary(split)
    tickers = sum(row.split == split for row in report.tickers)
    thinned = "" if summary.windows == summary.available else f" of {summary.available}, evenly spaced"
    of = f" (tickers: {tickers})" if tickers else ""
    together = "They overlap, and windows of one date count as one: they" if tickers else "They overlap: they"
    mark = parity(report, split)
    return (
        f"{mark + ' ' if mark else ''}{summary.windows} windows{thinned}{of}, forecast from "
        f"{summary.first_origin:%-d %B %Y} to {summary.last_origin:%-d %B %Y}, the last target on "
        f"{summary.last_target:%-d %B %Y}. {together} are worth {summary.independent} independent ones."
    )


def trading_rules(report: EvalReport) -> str:
    """Say how the accounts of the table trade; empty without a backtest."""
    found = report.backtest
    if found is None:
        return ""
    mark = parity(report, found.split)
    return (
        f"{mark + ' ' if mark else ''}From {found.dates[0]:%-d %B %Y} to {found.dates[-1]:%-d %B %Y}. A position is "
        f"opened at the open after a forecast's origin and held over the {found.hold} sessions that the forecast "
        "covers; forecasts that are held at the same time share the capital. Every purchase and every sale costs "
        f"{found.cost_bps:g} basis points. {model_label(PERSISTENCE)} forecasts no move and so never trades. Cash "
        f"earns nothing, and borrowing shares costs nothing. Forecasters counted as tried: {found.variants}."
    )


def trading_finding(report: EvalReport) -> str:
    """Say what trading on the chosen adapter returned, beside drift and holding; empty without adapter or backtest."""
    own, held = _account(report), _held(report)
    if own is None or held is None or report.backtest is None or report.chosen is None:
        return ""
    drift = report.backtest.of(own.rule, DRIFT)
    write = ACCOUNT_COLUMNS["annual_return"].write
    return (
        f"{RULE_LABELS[own.rule]} by {model_label(report.chosen)} returned {write(own.annual_return)} per year after "
        f"costs, by drift {write(drift.annual_return if drift else None)}, holding {write(held.annual_return)}; "
        f"deflated Sharpe {ACCOUNT_COLUMNS['deflated_sharpe'].write(own.deflated_sharpe)}"
    )


def trading_by_ticker(report: EvalReport) -> str:
    """Say on how many tickers of a pool trading on the chosen adapter beat holding; empty for one ticker."""
    own, held = _account(report), _held(report)
    if own is None or held is None or not held.sharpe_by_ticker:
        return ""
    both = sorted(set(own.sharpe_by_ticker) & set(held.sharpe_by_ticker))
    better = sum(own.sharpe_by_ticker[ticker] > held.sharpe_by_ticker[ticker] for ticker in both)
    middle = float(np.median([own.sharpe_by_ticker[ticker] for ticker in both])) if both else None
    return (
        f"Traded alone, long or short, {better} of {len(both)} tickers had a higher Sharpe ratio than when held; the "
        f"median ticker's was {ACCOUNT_COLUMNS['sharpe'].write(middle)}."
    )


def picture_words(report: EvalReport, *, model: str, free: str | None) -> dict[str, tuple[str, str]]:
    """Return for each picture a heading that states its finding, and a text that describes it.

    Args:
        report: The report.
        model: The model whose forecasts are drawn.
        free: The free forecaster that is drawn beside it, if any.
    """
    label = model_label(model)
    band = percent(report.interval, decimals=0)
    beside = f" Dashed: the same band of {model_phrase(free)}, the best free forecast on validation." if free else ""
    return {
        "skill": (_skill_heading(report), _skill_text(report)),
        "forecasts": (
            _fan_heading(report, model=model, free=free),
            f"Single windows of {_where(report)}, evenly spaced in time. Dots: the adjusted close before and after the "
            f"origin. Coloured: the median forecast of {label} and the bands that should contain 50 % and {band} of "
            f"the prices.{beside}",
        ),
        "series": (
            _coverage_heading(report, model=model),
            f"Above: the adjusted close with the train, validation and test splits. Below: the test split with the "
            f"forecasts of {label} that do not overlap.{beside}",
        ),
        "horizon": (
            _horizon_heading(report, model=model),
            "Left: the CRPS of the log return for each session ahead, in daily standard deviations; for a random walk "
            "it grows with the square root of the distance. Right: the CRPS skill against the random walk at each "
            f"distance; the shaded area is the 95 % interval of {label}. Lines that leave the picture at the bottom "
            "are worse.",
        ),
        "tickers": (
            _ticker_heading(report, model=model),
            f"The CRPS skill of {label} against the random walk on each ticker's test windows, lowest first, with its "
            "95 % interval if there are enough windows for one.",
        ),
        "calibration": (
            _calibration_heading(report, model=model),
            f"Left: the share of test prices in each tenth of {label}'s predictive distribution. A valley means too "
            "narrow, a hill too wide, a slope biased. Right: the share of prices inside the 50 %, 80 % and 95 % bands "
            "of every sampled forecaster.",
        ),
        "trading": (
            trading_finding(report) or "Capital over time by trading rule",
            f"The capital of each trading rule at each session's open, after costs, starting at 1: driven by {label}, "
            "by drift, and by persistence, which never trades; beside it, buying and holding.",
        ),
        "training": (
            "Training, step by step",
            "Reward of each GRPO stage and loss of SFT by step, and the share of sampled answers that parse. Thin: as "
            "logged. Thick: a running mean.",
        ),
    }


def _where(report: EvalReport) -> str:
    split = decisive(report)
    return split_phrase(report, split) + (f" ({PARITY_ONLY})" if parity(report, split) else "")


def _skill_heading(report: EvalReport) -> str:
    models = [model for model in sampled_models(report, "test") if model != RANDOM_WALK]
    gains = {model: report.value(model, split="test", metric="crps_skill") or 0.0 for model in models}
    better = [model_label(model) for model, gain in gains.items() if gain > 0]
    if not better:
        return "No distribution beats the random walk's on test"
    names = listed(better)
    return f"{names} {'have' if len(better) > 1 else 'has'} a lower CRPS than the random walk on test"


def _skill_text(report: EvalReport) -> str:
    skill = METRICS["crps_skill"]
    figures = [
        f"{model_label(model)} {skill.write(report.value(model, split='validation', metric='crps_skill'))} and "
        f"{skill.write(report.value(model, split='test', metric='crps_skill'))}"
        for model in sampled_models(report, "test")
        if model != RANDOM_WALK
    ]
    return (
        f"CRPS skill against the random walk on validation and on test: {'; '.join(figures)}. Lines: 95 % intervals "
        "on test."
    )


def _fan_heading(report: EvalReport, *, model: str, free: str | None) -> str:
    """Compare the width of the bands, and say how many prices each holds."""
    split, band = decisive(report), percent(report.interval, decimals=0)
    names = [model] if free is None else [model, free]
    held = {name: report.value(name, split=split, metric="coverage") for name in names}
    own, inside = report.value(model, split=split, metric="width"), held[model]
    if own is None or inside is None:
        return f"{model_label(model)} and the actual prices"
    finding = f"On {_where(report)} {model_label(model)}'s {band} bands hold {percent(inside)} of the prices"
    other, outer = (report.value(free, split=split, metric="width"), held[free]) if free else (None, None)
    if free is None or not other or outer is None:
        return finding
    apart = own / other - 1
    size = "as wide as" if abs(apart) < 0.005 else f"{percent(abs(apart), decimals=0)} {_wider(apart)} than"
    return f"{finding} and are {size} those of {model_phrase(free)}, which hold {percent(outer)}"


def _wider(apart: float) -> str:
    return "wider" if apart > 0 else "narrower"


def _coverage_heading(report: EvalReport, *, model: str) -> str:
    inside = report.value(model, split="test", metric="coverage")
    nominal = percent(report.interval, decimals=0)
    if inside is None:
        return "The series and its forecasts"
    return f"The series and its forecasts: {percent(inside)} of the test prices are inside the {nominal} band"


def _ticker_heading(report: EvalReport, *, model: str) -> str:
    skills = ticker_skills(report, model=model, split="test")
    better = sum(value > 0 for value in skills.values())
    return f"{model_label(model)} beats the random walk on {better} of {len(skills)} tickers"


def _calibration_heading(report: EvalReport, *, model: str) -> str:
    held = report.value(model, split="test", metric="coverage_80") if "coverage_80" in _metrics(report) else None
    if held is None:
        return "Calibration of the predictive distribution"
    gap = held - 0.8
    kind = "about as wide as they should be" if abs(gap) <= CALIBRATED else "too narrow" if gap < 0 else "too wide"
    return f"The bands are {kind}: the 80 % band contains {percent(held)} of the prices"


def _metrics(report: EvalReport) -> set[str]:
    return {row.metric for row in report.metrics}


def _horizon_heading(report: EvalReport, *, model: str) -> str:
    rows = [r for r in report.metrics if (r.split, r.metric) == ("test", DECIDING_METRIC) and r.horizon is not None]
    better = sum((row.values[model] or 0.0) < (row.values[RANDOM_WALK] or 0.0) for row in rows)
    return f"{model_label(model)} beats the random walk at {better} of {len(rows)} distances"


def _account(report: EvalReport) -> Account | None:
    return report.backtest.of("long_short", report.chosen) if report.backtest and report.chosen else None


def _held(report: EvalReport) -> Account | None:
    return report.backtest.of("buy_and_hold") if report.backtest else None
