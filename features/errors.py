"""Errors of the features package.

FeaturesError (ValueError)
├── BarsError                  a price file that breaks the schema: file, row, column, value and cure
├── TickerNameError            a ticker name that could not name a file safely
├── PublishedLayoutError       a CSV of the published layout cannot be read
├── QualityError               bars beyond the limits of the quality report
├── JumpError                  prices with a jump that no market makes
└── InsufficientHistoryError   too few sessions for one window or one split
"""


class FeaturesError(ValueError):
    """Any fault in the data that the features package was given."""


class BarsError(FeaturesError):
    """A price file or frame that breaks the schema of bars."""


class TickerNameError(FeaturesError):
    """A ticker name with characters that are not allowed."""


class PublishedLayoutError(FeaturesError):
    """A CSV file that does not follow the published layout."""


class QualityError(FeaturesError):
    """Bars with more missing, extra or empty sessions than allowed."""


class JumpError(FeaturesError):
    """Prices that jump by a factor that no market makes."""


class InsufficientHistoryError(FeaturesError):
    """Too few sessions to build a window or a split."""


def shortened(value: object, *, at_most: int = 60) -> str:
    """Write a value for an error message: texts in quotes, control characters escaped, long values cut.

    Args:
        value: What was found, for example a cell of a file.
        at_most: Most characters; of a longer text the first ones are shown, then `...`.
    """
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."
