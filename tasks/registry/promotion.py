"""Champions over time: promotion and its record in tags, rollback, and the history of a ticker's versions."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tickerforge.features.config import FrozenModel
from tickerforge.tasks.base.errors import NotRegistered
from tickerforge.tasks.base.logs import run_logger
from tickerforge.tasks.registry.versions import (
    CHAMPION,
    RegisteredAdapter,
    aliases_of,
    all_versions,
    find_version,
    model_name,
)
from tickerforge.tasks.tracking.client import Tracking, as_tracking_error, client_of
from tickerforge.tasks.tracking.runs import LONGEST_TAG

PROMOTED_AT, FORMER_CHAMPION = "promoted_at", "former_champion"
ROLLED_BACK_AT, ROLLED_BACK_REASON = "rolled_back_at", "rolled_back_reason"
_NO_CHAMPION = "none"


class VersionRecord(FrozenModel):
    """A version of a ticker's model, from the registry alone.

    `skill` is that on the test split against persistence, `former_champion` the champion before its promotion, `report`
    an address for `mlflow artifacts download --artifact-uri`; instants are UTC.
    """

    version: int
    created: datetime
    stage: str
    aliases: tuple[str, ...]
    promoted_at: datetime | None
    former_champion: int | None
    rolled_back_at: datetime | None
    rolled_back_reason: str | None
    skill: float | None
    verdict: str
    reasons: tuple[str, ...]
    data_sha256: str
    git_revision: str
    report: str


class Rollback(FrozenModel):
    """The champion before and after a rollback, by version."""

    ticker: str
    rolled_back: int
    champion: int
    reason: str


def promote(tracking: Tracking, adapter: RegisteredAdapter, *, at: datetime) -> None:
    """Point the alias `champion` at a version, after tagging it with time and former champion; raises MLflow's errors.

    Args:
        tracking: From `tasks.tracking.stage_runs.connect`.
        adapter: The new champion; nothing changes if it is the champion already.
        at: The instant of the promotion.
    """
    client, version = client_of(tracking), str(adapter.version)
    former = aliases_of(tracking, adapter.name).get(CHAMPION)
    if former != version:
        client.set_model_version_tag(adapter.name, version, FORMER_CHAMPION, former or _NO_CHAMPION)
        client.set_model_version_tag(adapter.name, version, PROMOTED_AT, _written(at))
        client.set_registered_model_alias(adapter.name, CHAMPION, version)


def is_rolled_back(tracking: Tracking, name: str, *, made: Mapping[str, str]) -> bool:
    """Return whether a version with these tags was rolled back, and if so log it; raises MLflow's errors."""
    for version in all_versions(tracking, name):
        if ROLLED_BACK_AT in version.tags and all(version.tags.get(tag) == value for tag, value in made.items()):
            run_logger(__name__).warning(
                "%s: this adapter passes the gate, but as version %s it was rolled back on %s (%s), so it is not "
                "promoted again. Train another one. If the rollback was wrong, point the alias %s at it in MLflow.",
                name,
                version.version,
                version.tags[ROLLED_BACK_AT],
                version.tags.get(ROLLED_BACK_REASON, ""),
                CHAMPION,
            )
            return True
    return False


def rollback(tracking: Tracking, ticker: str, *, at: datetime, reason: str | None = None) -> Rollback:
    """Point the alias `champion` back at the former champion, and mark the version that was champion until now.

    The mark comes first: the next call completes one that was interrupted in between. Predecessors that were rolled
    back themselves are skipped.

    Args:
        tracking: From `tasks.tracking.stage_runs.connect`.
        ticker: Ticker of the champion.
        at: The instant of the rollback.
        reason: Reason, for the record.

    Raises:
        NotRegistered: If there is no champion, or none before it.
        TrackingError: If MLflow does not answer.
    """
    name = model_name(ticker)
    current = find_version(tracking, name, alias=CHAMPION)
    with as_tracking_error(tracking.uri):
        target = _predecessor(current, {str(version.version): version for version in all_versions(tracking, name)})
        if target is None:
            raise NotRegistered(
                f"{ticker}: no champion before version {current.version} is left. To withdraw it anyway, delete the "
                f"alias {CHAMPION} of {name} in MLflow: {ticker} then has no champion."
            )
        said = (reason or "no reason given")[:LONGEST_TAG]
        client = client_of(tracking)
        client.set_model_version_tag(name, current.version, ROLLED_BACK_REASON, said)
        client.set_model_version_tag(name, current.version, ROLLED_BACK_AT, _written(at))
        client.set_registered_model_alias(name, CHAMPION, target)
    run_logger(__name__).warning("%s: version %s is champion again, %s was rolled back", name, target, current.version)
    return Rollback(ticker=ticker, rolled_back=int(current.version), champion=int(target), reason=said)


def history(tracking: Tracking, ticker: str) -> tuple[VersionRecord, ...]:
    """Return every version of a ticker's model, newest first.

    Raises:
        NotRegistered: If there is none.
        TrackingError: If MLflow does not answer.
    """
    name = model_name(ticker)
    with as_tracking_error(tracking.uri):
        versions, aliases = all_versions(tracking, name), aliases_of(tracking, name)
    if not versions:
        raise NotRegistered(
            f"nothing is registered for {ticker}: train it first with `tickerforge run --stock {ticker}`"
        )
    return tuple(_record(version, aliases) for version in versions)


def predecessors(version: str, tags: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the champions before a version, the latest first, up to the first one that was not rolled back.

    Args:
        version: Number of the version.
        tags: Tags of all versions that exist, by number.
    """
    found: list[str] = []
    former = tags[version].get(FORMER_CHAMPION, _NO_CHAMPION)
    while former in tags and former not in (version, *found):
        found.append(former)
        if ROLLED_BACK_AT not in tags[former]:
            break
        former = tags[former].get(FORMER_CHAMPION, _NO_CHAMPION)
    return found


def _predecessor(champion: Any, versions: Mapping[str, Any]) -> str | None:
    tags = {number: version.tags for number, version in versions.items()}
    before = predecessors(str(champion.version), tags)
    return before[-1] if before and ROLLED_BACK_AT not in tags[before[-1]] else None


def _record(version: Any, aliases: Mapping[str, str]) -> VersionRecord:
    tags = version.tags
    former, skill = tags.get(FORMER_CHAMPION, _NO_CHAMPION), tags.get("test/skill")
    return VersionRecord(
        version=int(version.version),
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        stage=tags.get("stage", ""),
        aliases=tuple(sorted(alias for alias, named in aliases.items() if named == str(version.version))),
        promoted_at=tags.get(PROMOTED_AT),
        former_champion=None if former == _NO_CHAMPION else int(former),
        rolled_back_at=tags.get(ROLLED_BACK_AT),
        rolled_back_reason=tags.get(ROLLED_BACK_REASON) if ROLLED_BACK_AT in tags else None,
        skill=None if skill is None else float(skill),
        verdict=tags.get("verdict", ""),
        reasons=tuple(tags.get("verdict_reasons", "").splitlines()),
        data_sha256=tags.get("data_sha256", ""),
        git_revision=tags.get("git_revision", ""),
        report=tags.get("report", ""),
    )


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds")
