"""Figures from prices that the base model may have been trained on, and the text that marks them."""

from datetime import date

from tickerforge.evaluation.core.contracts import AFTER, EvalReport, ScoredSplit

PARITY_ONLY = "parity only"

UNKNOWN_CUT_OFF = (
    "The last day of the base model's training data is unknown, so the base model may have seen the test split: give "
    "that date as --test-after, or as training.model_cutoff in the recipe."
)


def day(value: date) -> str:
    """Write a date for a sentence."""
    return f"{value:%-d %B %Y}"


def decisive(report: EvalReport) -> ScoredSplit:
    """Return the split to show if there is room for one: the judged one, else test with its mark."""
    return report.judged or "test"


def split_name(report: EvalReport, split: ScoredSplit) -> str:
    """Name a split's table, with a mark if the base model may have seen its prices."""
    if split == AFTER and report.test_after is not None:
        return f"test split after {day(report.test_after)}"
    return f"{split} split" + (f" ({PARITY_ONLY})" if report.summary(split).before else "")


def split_title(report: EvalReport, split: ScoredSplit) -> str:
    """Write `split_name` as a heading."""
    name = split_name(report, split)
    return name[0].upper() + name[1:]


def split_phrase(report: EvalReport, split: ScoredSplit) -> str:
    """Name a split within a sentence: `validation`, `test`, `test after 31 December 2023`."""
    return f"test after {day(report.test_after)}" if split == AFTER and report.test_after is not None else split


def parity(report: EvalReport, split: ScoredSplit) -> str:
    """Say in one sentence why a split's figures are parity only; empty if they are not."""
    summary = report.summary(split)
    if not summary.before or report.test_after is None:
        return ""
    which = f"all {summary.windows}" if summary.before == summary.windows else f"{summary.before} of {summary.windows}"
    return (
        f"{PARITY_ONLY.capitalize()}: {which} windows are about sessions up to {day(report.test_after)}, which the "
        "base model may have been trained on. The figures can be compared with published ones, but prove nothing."
    )


def cut_off(report: EvalReport) -> str:
    """Say in one or two sentences which windows the verdict uses if there is a cut-off; empty if there is none."""
    if report.test_after is None:
        return ""
    known = f"The base model may have been trained on prices up to {day(report.test_after)}."
    if report.judged is None:
        return f"{known} No test window is after that, so nothing can be judged."
    summary = report.summary(report.judged)
    return f"{known} The verdict on test uses the {summary.windows} windows after that."
