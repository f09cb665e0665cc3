"""The options of the last `up` or `deploy`, kept on the Prefect server for the next one."""

import logging
from pathlib import Path

from pydantic import Field, ValidationError

from tickerforge.features.config import FrozenModel

logger = logging.getLogger(__name__)

OPTIONS_VARIABLE = "tickerforge_deploy"


class Choices(FrozenModel):
    """Options of `tickerforge up` and `deploy`; `None` stands for an option that was not given."""

    data: Path | None = None
    recipe: Path | None = None
    tickers: Path | None = None
    gpus: int | None = Field(default=None, ge=1)

    def absolute(self) -> "Choices":
        """Return a copy with absolute paths."""
        paths = {name: path.resolve() for name in ("data", "recipe", "tickers") if (path := getattr(self, name))}
        return self.model_copy(update=paths)


def with_former(given: Choices) -> Choices:
    """Complete the given options with those of the last time, and log which ones were added."""
    from prefect.variables import Variable

    try:
        former = Choices.model_validate_json(str(Variable.get(OPTIONS_VARIABLE, "{}")))
    except ValidationError as error:
        logger.warning("ignoring the variable %s on the server, which cannot be read: %s", OPTIONS_VARIABLE, error)
        return given
    kept = {
        name: value
        for name in Choices.model_fields
        if getattr(given, name) is None and (value := getattr(former, name)) is not None
    }
    if kept:
        options = ", ".join(f"--{name} {value}" for name, value in kept.items())
        logger.info(
            "using the last options: %s (delete the variable %s in Prefect to reset them)", options, OPTIONS_VARIABLE
        )
    return given.model_copy(update=kept)


def remember(choices: Choices) -> None:
    """Save the options on the server for the next time."""
    from prefect.variables import Variable

    Variable.set(OPTIONS_VARIABLE, choices.model_dump_json(), overwrite=True)
