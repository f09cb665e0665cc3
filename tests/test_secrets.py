"""Secrets of the environment, planted, and then searched for in everything that a run writes."""

import base64
import gzip
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from mlflow_server import MlflowServer
from tickerforge.flows.settings.config import with_overrides
from tickerforge.flows.train.pipeline import train_ticker
from tickerforge.tasks.base.errors import TrackingError
from tiny_pipeline import tiny_config
from tracking_environment import forget_tracking
from trained_pieces import lend_base_model

pytestmark = pytest.mark.slow

USER = "planteduser"
MLFLOW, PREFECT, DATABASE, KEY, TOKEN = (
    f"planted/{name}+s3cret=" for name in ("Mlflow", "Prefect", "Database", "AwsKey", "AwsToken")
)
# Not the user: MLflow keeps the name, as the one who logged a model.
PLANTED = (MLFLOW, PREFECT, DATABASE, KEY, TOKEN)


SHORTER = [
    *("training.grpo_1st.steps=1", "training.grpo_2nd.steps=1"),
    *("training.rejection.max_windows=4", "evaluation.max_windows=3"),
]


@dataclass(frozen=True)
class Place:
    """Where a run writes, and the server it tells of it."""

    folders: tuple[Path, ...]
    server: MlflowServer


def forms(secret: str) -> set[bytes]:
    """A secret as it stands, in a URL, and in base64, alone or as a user's password."""
    plain = {secret, f"{USER}:{secret}", f":{secret}"}
    encoded = {base64.b64encode(text.encode()).rstrip(b"=") for text in plain}
    return {secret.encode(), quote(secret, safe="").encode()} | encoded


NEEDLES = {needle: secret for secret in PLANTED for needle in forms(secret)}


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes and, where it is compressed, what is in it."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield f"{table.schema} {table.to_pydict()}".encode()


def leaks(folders: tuple[Path, ...]) -> list[str]:
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        for data in contents(path):
            found += [
                f"{secret} in {path}: …{around(data, needle)}…" for needle, secret in NEEDLES.items() if needle in data
            ]
    return found


def around(data: bytes, needle: bytes) -> str:
    place = data.index(needle)
    return data[max(0, place - 120) : place + 120].decode(errors="replace")


def with_password(url: str, secret: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{scheme}://{USER}:{quote(secret, safe='')}@{rest}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Place]:
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_DATABASE_CONNECTION_URL,
        temporary_settings,
    )

    work, home, mlflow = (tmp_path_factory.mktemp(name) for name in ("work", "home", "mlflow"))
    database = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().split("///", 1)[1])
    server = MlflowServer(mlflow)
    server.start()
    prefect_url = with_password(PREFECT_API_URL.value(), PREFECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("TICKERFORGE_HOME", str(home))
        lend_base_model(home)
        forget_tracking(patch)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("MLFLOW_TRACKING_URI", with_password(server.uri, MLFLOW))
        patch.setenv("PREFECT_API_URL", prefect_url)
        patch.setenv("TICKERFORGE_DATABASE", with_password("postgresql://db/prefect", DATABASE))
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        patch.setenv("AWS_SESSION_TOKEN", TOKEN)
        patch.setenv("TICKERFORGE_MLFLOW_PATIENCE", "0")
        with temporary_settings({PREFECT_API_URL: prefect_url, PREFECT_LOGGING_TO_API_ENABLED: True}):
            yield Place((work, home, mlflow, database.parent), server)
    server.stop()


def drain_prefect_logs() -> None:
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=20)


def test_a_finished_run_and_one_that_fails_for_want_of_mlflow_leave_no_secret_anywhere(place: Place) -> None:
    config = with_overrides(tiny_config(), SHORTER)
    result = train_ticker(config)
    assert result is not None
    place.server.stop()
    with pytest.raises(TrackingError, match="Nothing is lost"):
        train_ticker(config)
    drain_prefect_logs()
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == MLFLOW
    logs = [path.read_text() for path in place.folders[0].rglob("pipeline.log")]
    assert len(logs) == 2
    assert sum("MLflow did not get" in log for log in logs) == 1
    databases = {path.name for folder in place.folders for path in folder.rglob("*.db")}
    assert {"server.db"} < databases
    assert leaks(place.folders) == []


@pytest.mark.parametrize("secret", PLANTED)
def test_the_search_finds_what_is_hidden_in_urls_base64_and_archives(secret: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(with_password("http://host", secret).encode()))
    (tmp_path / "b").write_bytes(b"Basic " + base64.b64encode(f"{USER}:{secret}".encode()))
    with zipfile.ZipFile(tmp_path / "c", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d", secret)
    found = [line.split(": …")[0] for line in leaks((tmp_path,))]
    assert {f"{secret} in {tmp_path / name}" for name in "abc"} <= set(found)
