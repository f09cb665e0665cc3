"""The promotion rule: the adapter chosen on validation becomes champion only where the evidence carries it."""

from evaluation.config import GateConfig
from evaluation.contracts import (
    CHAMPION,
    DECIDING_METRIC,
    DRIFT,
    PERSISTENCE,
    SPLITS,
    EvalReport,
    Reason,
    Split,
    Verdict,
)
from evaluation.labels import model_label, p_text, percent
from evaluation.metrics import skill

_NAMES = {PERSISTENCE: "persistence", DRIFT: "drift", CHAMPION: "the current champion"}


def decide(report: EvalReport, config: GateConfig) -> Verdict:
    """Judge the adapter that was chosen on validation.

    It is promoted only if its scaled squared error lies below persistence's and drift's by more than `min_skill` on
    validation and on test, is no larger than the current champion's where there is one, the one-sided Diebold-Mariano
    p-value against persistence on test is at most `max_p_value`, at least `min_valid_rate` of its answers parse on each
    split, the share of test prices inside its band lies within `max_coverage_gap` of the nominal one, and the test
    split holds at least `min_windows` independent windows.

    Returns:
        The verdict with one reason per condition, met or not, in words with its figure.
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
        )
    reasons = [_evidence(report, config)]
    for split in SPLITS:
        reasons += [
            _beats(report, model=model, split=split, reference=name, margin=config.min_skill)
            for name in (PERSISTENCE, DRIFT)
        ]
        if CHAMPION in report.models:
            reasons.append(_not_worse(report, model=model, split=split))
    reasons.append(_significant(report, config, model=model))
    reasons += [_valid_answers(report, config, model=model, split=split) for split in SPLITS]
    reasons.append(_covers(report, config, model=model))
    promoted = all(reason.passed for reason in reasons)
    return Verdict(
        ticker=report.ticker,
        promoted=promoted,
        model=model,
        headline=_headline(report, model=model, failed=[reason for reason in reasons if not reason.passed]),
        reasons=tuple(reasons),
    )


def _headline(report: EvalReport, *, model: str, failed: list[Reason]) -> str:
    label = model_label(model)
    if not failed:
        test = report.test_of(model, split="test")
        gain = report.value(model, split="test", metric="skill") or 0.0
        return (
            f"{label} is promoted for {report.ticker}: out of sample its squared error is {percent(gain)} below "
            f"persistence's ({p_text(test.p_value if test else 1.0)})."
        )
    first, others = failed[0].text, len(failed) - 1
    rest = "" if not others else f" {others} more condition{' is' if others == 1 else 's are'} not met."
    return f"{label} is not promoted for {report.ticker}: {first[0].lower()}{first[1:]}{rest}"


def _evidence(report: EvalReport, config: GateConfig) -> Reason:
    summary = report.summary("test")
    passed = summary.independent >= config.min_windows
    size = f"The test split holds {summary.independent} independent windows ({summary.windows} overlapping ones)"
    text = f"{size}; at least {config.min_windows} are needed" + ("." if passed else ": too little evidence.")
    return Reason(name="evidence", passed=passed, text=text)


def _valid_answers(report: EvalReport, config: GateConfig, *, model: str, split: Split) -> Reason:
    rate = report.value(model, split=split, metric="valid_rate") or 0.0
    return Reason(
        name=f"valid_rate_{split}",
        passed=rate >= config.min_valid_rate,
        text=(
            f"On {split} {percent(rate, against=config.min_valid_rate)} of its answers parse; at least "
            f"{percent(config.min_valid_rate)} are needed."
        ),
    )


def _relative(report: EvalReport, *, model: str, split: Split, reference: str) -> float:
    own = report.value(model, split=split, metric=DECIDING_METRIC)
    other = report.value(reference, split=split, metric=DECIDING_METRIC)
    return float("-inf") if own is None or other is None else skill(own, other)


def _position(gain: float, reference: str, *, margin: float = 0.0) -> str:
    if gain == 0:
        return f"equal to {_NAMES[reference]}'s"
    return f"{percent(abs(gain), against=margin)} {'below' if gain > 0 else 'above'} {_NAMES[reference]}'s"


def _beats(report: EvalReport, *, model: str, split: Split, reference: str, margin: float) -> Reason:
    gain = _relative(report, model=model, split=split, reference=reference)
    needed = f"more than {percent(margin)} below is needed" if margin else "it must be below"
    return Reason(
        name=f"{reference}_{split}",
        passed=gain > margin,
        text=f"On {split} its squared error is {_position(gain, reference, margin=margin)}; {needed}.",
    )


def _not_worse(report: EvalReport, *, model: str, split: Split) -> Reason:
    gain = _relative(report, model=model, split=split, reference=CHAMPION)
    return Reason(
        name=f"champion_{split}",
        passed=gain >= 0,
        text=f"On {split} its squared error is {_position(gain, CHAMPION)}; it must not be above.",
    )


def _covers(report: EvalReport, config: GateConfig, *, model: str) -> Reason:
    inside = report.value(model, split="test", metric="coverage")
    nominal = percent(report.interval, decimals=0)
    allowed = f"at most {100 * config.max_coverage_gap:.0f} points from {nominal} are allowed"
    if inside is None:
        text = f"Without sampled answers it has no {nominal} band on test; {allowed}."
        return Reason(name="coverage_test", passed=False, text=text)
    return Reason(
        name="coverage_test",
        passed=abs(inside - report.interval) <= config.max_coverage_gap,
        text=f"On test {percent(inside)} of the prices fall inside its {nominal} band; {allowed}.",
    )


def _significant(report: EvalReport, config: GateConfig, *, model: str) -> Reason:
    test = report.test_of(model, split="test")
    p_value, note = (test.p_value, test.note) if test else (1.0, "no test was made")
    why = f" ({note})" if note else ""
    return Reason(
        name="significance_test",
        passed=p_value <= config.max_p_value,
        text=(
            "If it were no better than persistence, chance alone would show such an advantage on test with probability "
            f"{p_text(p_value, against=config.max_p_value)}{why}; at most {config.max_p_value:g} is allowed."
        ),
    )
