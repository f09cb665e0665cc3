"""What the deployments were made with, kept on the Prefect server, so that a bare `up` or `deploy` keeps it."""

import logging
from pathlib import Path

from pydantic import Field, ValidationError

from tickerforge.features.config import FrozenModel

logger = logging.getLogger(__name__)

VARIABLE = "tickerforge_deploy"


class Choices(FrozenModel):
    """Options of `tickerforge up` and `deploy`; what was not given is `None`."""

    data: Path | None = None
    recipe: Path | None = None
    tickers: Path | None = None
    gpus: int | None = Field(default=None, ge=1)

    def absolute(self) -> "Choices":
        """The same with paths that mean the same from any folder."""
        paths = {name: path.resolve() for name in ("data", "recipe", "tickers") if (path := getattr(self, name))}
        return self.model_copy(update=paths)


def with_former(given: Choices) -> Choices:
    """What was given now, and for what was not, what was given last time, which the log then says."""
    from prefect.variables import Variable

    try:
        former = Choices.model_validate_json(str(Variable.get(VARIABLE, "{}")))
    except ValidationError as error:
        logger.warning("the variable %s on the server cannot be read, so it does not count: %s", VARIABLE, error)
        return given
    kept = {
        name: value
        for name in Choices.model_fields
        if getattr(given, name) is None and (value := getattr(former, name)) is not None
    }
    if kept:
        told = ", ".join(f"--{name} {value}" for name, value in kept.items())
        logger.info("as before: %s (delete the variable %s in Prefect to forget it)", told, VARIABLE)
    return given.model_copy(update=kept)


def remember(choices: Choices) -> None:
    """Keep the options for the next time."""
    from prefect.variables import Variable

    Variable.set(VARIABLE, choices.model_dump_json(), overwrite=True)
