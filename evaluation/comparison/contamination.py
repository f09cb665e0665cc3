"""Which figures rest on prices that the base model may have been trained on, and the words that mark them."""

from datetime import date

from tickerforge.evaluation.core.contracts import AFTER, EvalReport, ScoredSplit

PARITY_ONLY = "parity only"

UNKNOWN_CUT_OFF = (
    "It is not known until when the prices go that the base model was trained on, so nothing here rules out that it "
    "had seen the test split: give that date as --test-after, or as training.model_cutoff in the recipe."
)


def day(value: date) -> str:
    """A date as it is written in sentences."""
    return f"{value:%-d %B %Y}"


def decisive(report: EvalReport) -> ScoredSplit:
    """The split whose table is shown where there is room for one: that which is judged, else test with its mark."""
    return report.judged or "test"


def split_name(report: EvalReport, split: ScoredSplit) -> str:
    """What a split's table is called, with the mark where it rests on prices that may have been seen."""
    if split == AFTER and report.test_after is not None:
        return f"test split after {day(report.test_after)}"
    return f"{split} split" + (f" ({PARITY_ONLY})" if report.summary(split).before else "")


def split_title(report: EvalReport, split: ScoredSplit) -> str:
    """`split_name` as a heading."""
    name = split_name(report, split)
    return name[0].upper() + name[1:]


def split_phrase(report: EvalReport, split: ScoredSplit) -> str:
    """A split in the middle of a sentence: `validation`, `test`, `test after 31 December 2023`."""
    return f"test after {day(report.test_after)}" if split == AFTER and report.test_after is not None else split


def parity(report: EvalReport, split: ScoredSplit) -> str:
    """In one sentence why a split's figures are parity only; empty where they are not."""
    summary = report.summary(split)
    if not summary.before or report.test_after is None:
        return ""
    which = f"all {summary.windows}" if summary.before == summary.windows else f"{summary.before} of {summary.windows}"
    return (
        f"{PARITY_ONLY.capitalize()}: {which} windows are about sessions up to {day(report.test_after)}, which the "
        "base model may have been trained on. Its figures compare with what others report of this split, and prove "
        "nothing."
    )


def cut_off(report: EvalReport) -> str:
    """In one or two sentences what the verdict rests on where there is a cut-off; empty where there is none."""
    if report.test_after is None:
        return ""
    known = f"The base model may have been trained on prices up to {day(report.test_after)}."
    if report.judged is None:
        return f"{known} No test window lies after that, so nothing here can be judged."
    summary = report.summary(report.judged)
    return f"{known} The verdict on test rests on the {summary.windows} windows after that."
