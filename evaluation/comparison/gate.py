"""The promotion rule: the adapter chosen on validation becomes champion only if the evidence supports it."""

from tickerforge.evaluation.comparison.contamination import day, decisive, split_phrase
from tickerforge.evaluation.core.config import GateConfig
from tickerforge.evaluation.core.contracts import (
    AFTER,
    CURRENT_CHAMPION,
    DECIDING_METRIC,
    FREE,
    RANDOM_WALK,
    EvalReport,
    Reason,
    ScoredSplit,
    Verdict,
)
from tickerforge.evaluation.core.labels import model_label, model_phrase, p_text, percent
from tickerforge.evaluation.metrics.accuracy import skill


def decide(report: EvalReport, config: GateConfig) -> Verdict:
    """Judge the adapter that was chosen on validation.

    It is promoted only if all conditions are met:

    * its CRPS is below that of every free forecaster by more than `min_skill` on validation and on test;
    * its one-sided Diebold-Mariano p-value of the CRPS on test is at most `max_p_value` against each of them: an
      adapter that is only as good as the best free one passes in at most that share of cases (Berger 1982,
      Technometrics 24: intersection-union test);
    * the squared error of its median on test is not above persistence's beyond chance, by the same test in the other
      direction;
    * its CRPS is not above the current champion's, if there is one, on either split;
    * at least `min_valid_rate` of its answers parse on each split;
    * the share of test prices inside its band differs from the nominal one by at most `max_coverage_gap`;
    * the test split has at least `min_windows` independent windows.

    If the base model may have been trained on part of the test split, only the windows after that count as test. If
    none are left, the last condition is the only one on test, and it is not met.

    Returns:
        The verdict, with one reason per condition, met or not, as a sentence with its figure.
    """
    model = report.chosen
    if model is None:
        reason = Reason(name="adapter", passed=False, text="No trained adapter was compared, so none can be promoted.")
        return Verdict(
            ticker=report.ticker,
            promoted=False,
            model=None,
            headline=f"Nothing to promote for {report.ticker}: no trained adapter was compared.",
            reasons=(reason,),
            free=report.free,
        )
    reasons = [_evidence(report, config)]
    splits: tuple[ScoredSplit, ...] = ("validation",) if report.judged is None else ("validation", report.judged)
    for split in splits:
        reasons.append(_beats(report, model=model, split=split, margin=config.min_skill))
        if CURRENT_CHAMPION in report.models:
            reasons.append(_not_above(report, model=model, split=split))
    if report.judged is not None:
        reasons.append(_significant(report, config, model=model, split=report.judged))
        reasons.append(_median_not_worse(report, config, model=model, split=report.judged))
    reasons += [_valid_answers(report, config, model=model, split=split) for split in splits]
    if report.judged is not None:
        reasons.append(_covers(report, config, model=model, split=report.judged))
    promoted = all(reason.passed for reason in reasons)
    return Verdict(
        ticker=report.ticker,
        promoted=promoted,
        model=model,
        headline=_headline(report, model=model, failed=[reason for reason in reasons if not reason.passed]),
        reasons=tuple(reasons),
        free=report.free,
    )


def _headline(report: EvalReport, *, model: str, failed: list[Reason]) -> str:
    label = model_label(model)
    if not failed:
        split = decisive(report)
        test = report.test_of(model, split=split, against=RANDOM_WALK, loss="crps")
        gain = report.value(model, split=split, metric="crps_skill") or 0.0
        return (
            f"{label} is promoted for {report.ticker}: out of sample its CRPS is {percent(gain)} below the random "
            f"walk's ({p_text(test.p_value if test else 1.0)})."
        )
    first, others = failed[0].text, len(failed) - 1
    rest = "" if not others else f" {others} more condition{' is' if others == 1 else 's are'} not met."
    return f"{label} is not promoted for {report.ticker}: {first[0].lower()}{first[1:]}{rest}"


def _evidence(report: EvalReport, config: GateConfig) -> Reason:
    summary = None if report.judged is None else report.summary(report.judged)
    independent, windows = (summary.independent, summary.windows) if summary else (0, 0)
    where = "The test split has"
    if report.test_after is not None and report.summary("test").before:
        where = f"After {day(report.test_after)}, the last day that the base model may have seen, the test split has"
    passed = independent >= config.min_windows
    text = f"{where} {independent} independent windows ({windows} overlapping ones); at least {config.min_windows} are "
    return Reason(name="evidence", passed=passed, text=f"{text}needed" + ("." if passed else ": too little evidence."))


def _name(condition: str, split: ScoredSplit) -> str:
    """Name a condition; the windows after a cut-off count as the test split."""
    return f"{condition}_{'test' if split == AFTER else split}"


def _valid_answers(report: EvalReport, config: GateConfig, *, model: str, split: ScoredSplit) -> Reason:
    rate = report.value(model, split=split, metric="valid_rate") or 0.0
    return Reason(
        name=_name("valid_rate", split),
        passed=rate >= config.min_valid_rate,
        text=(
            f"On {split_phrase(report, split)} {percent(rate, against=config.min_valid_rate)} of its answers parse; at "
            f"least {percent(config.min_valid_rate)} are needed."
        ),
    )


def _relative(report: EvalReport, *, model: str, split: ScoredSplit, reference: str) -> float:
    own = report.value(model, split=split, metric=DECIDING_METRIC)
    other = report.value(reference, split=split, metric=DECIDING_METRIC)
    return float("-inf") if own is None or other is None else skill(own, other)


def _position(gain: float, reference: str, *, margin: float = 0.0) -> str:
    if gain == 0:
        return f"equal to that of {model_phrase(reference)}"
    return f"{percent(abs(gain), against=margin)} {'below' if gain > 0 else 'above'} that of {model_phrase(reference)}"


def _beats(report: EvalReport, *, model: str, split: ScoredSplit, margin: float) -> Reason:
    gains = {name: _relative(report, model=model, split=split, reference=name) for name in FREE}
    best = min(gains, key=lambda name: gains[name])
    needed = f"more than {percent(margin)} below is needed" if margin else "it must be below"
    return Reason(
        name=_name("free", split),
        passed=gains[best] > margin,
        text=(
            f"On {split_phrase(report, split)} its CRPS is {_position(gains[best], best, margin=margin)}, the best "
            f"free forecaster there; {needed}."
        ),
    )


def _not_above(report: EvalReport, *, model: str, split: ScoredSplit) -> Reason:
    gain = _relative(report, model=model, split=split, reference=CURRENT_CHAMPION)
    where = split_phrase(report, split)
    return Reason(
        name=_name("champion", split),
        passed=gain >= 0,
        text=f"On {where} its CRPS is {_position(gain, CURRENT_CHAMPION)}; it must not be above.",
    )


def _median_not_worse(report: EvalReport, config: GateConfig, *, model: str, split: ScoredSplit) -> Reason:
    test = report.test_of(model, split=split)
    # Without a test nothing shows that it is worse; the condition on the evidence fails then.
    worse = 1.0 - test.p_value if test and not test.note else 1.0
    return Reason(
        name=_name("median", split),
        passed=worse > config.max_p_value,
        text=(
            "If the squared error of its median were not above persistence's, what was found on "
            f"{split_phrase(report, split)} would have probability {p_text(worse, against=config.max_p_value)}; more "
            f"than {config.max_p_value:g} is needed."
        ),
    )


def _covers(report: EvalReport, config: GateConfig, *, model: str, split: ScoredSplit) -> Reason:
    inside = report.value(model, split=split, metric="coverage")
    where = split_phrase(report, split)
    nominal = percent(report.interval, decimals=0)
    allowed = f"at most {100 * config.max_coverage_gap:.0f} points from {nominal} are allowed"
    if inside is None:
        text = f"Without sampled answers it has no {nominal} band on {where}; {allowed}."
        return Reason(name="coverage_test", passed=False, text=text)
    return Reason(
        name="coverage_test",
        passed=abs(inside - report.interval) <= config.max_coverage_gap,
        text=f"On {where} {percent(inside)} of the prices are inside its {nominal} band; {allowed}.",
    )


def _significant(report: EvalReport, config: GateConfig, *, model: str, split: ScoredSplit) -> Reason:
    tests = {name: report.test_of(model, split=split, against=name, loss="crps") for name in FREE}
    p_values = {name: test.p_value if test else 1.0 for name, test in tests.items()}
    nearest = max(p_values, key=lambda name: p_values[name])
    test, p_value = tests[nearest], p_values[nearest]
    note = test.note if test else "no test was made"
    return Reason(
        name="significance_test",
        passed=p_value <= config.max_p_value,
        text=(
            f"If its CRPS were no better than that of {model_phrase(nearest)}, such an advantage on "
            f"{split_phrase(report, split)} would have probability {p_text(p_value, against=config.max_p_value)}"
            f"{f' ({note})' if note else ''}; at most {config.max_p_value:g} is allowed, against every free forecaster."
        ),
    )
