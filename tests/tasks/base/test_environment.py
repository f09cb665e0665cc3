import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tickerforge.tasks.base.environment import git_revision, package_version, set_embedded_defaults
from tickerforge.tasks.base.errors import StoreError
from tickerforge.tasks.base.paths import Workspace


def defaults(workspace: Path, **environment: str) -> dict[str, str]:
    """The environment that a fresh process has after the defaults were set."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tickerforge.tasks.base.environment import set_embedded_defaults\n"
        "from tickerforge.tasks.base.paths import Workspace; set_embedded_defaults(Workspace(Path(sys.argv[1])))\n"
        "assert 'prefect' not in sys.modules and 'mlflow' not in sys.modules and 'torch' not in sys.modules\n"
        "print('\\n'.join(f'{k}={v}' for k, v in os.environ.items()))"
    )
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace)],
        capture_output=True,
        text=True,
        check=True,
        env=clean | environment,
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_prefect_and_mlflow_live_in_the_workspace_and_phone_nobody(tmp_path: Path) -> None:
    found = defaults(tmp_path / "home")
    assert found["PREFECT_HOME"] == str(tmp_path / "home" / "state" / "prefect")
    assert found["PREFECT_SERVER_DATABASE_CONNECTION_URL"].endswith(f"{tmp_path}/home/state/prefect.db")
    assert found["HF_HUB_CACHE"] == str(tmp_path / "home" / "cache" / "base_models" / "hub")
    assert found["DO_NOT_TRACK"] == found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": ""}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intranet.example", "no_proxy": "127.0.0.1"}, "127.0.0.1,intranet.example,localhost,::1"),
    ],
)
def test_behind_a_proxy_this_machine_is_reached_directly_in_both_spellings(
    tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    found = defaults(tmp_path / "home", HTTP_PROXY="http://proxy.example:3128", **given)
    assert found["NO_PROXY"] == found["no_proxy"] == expected


def test_behind_a_proxy_a_server_at_this_machines_own_address_is_reached_directly(tmp_path: Path) -> None:
    given = {"PREFECT_API_URL": "http://127.0.0.2:4200/api", "MLFLOW_TRACKING_URI": "http://192.0.2.200:5000"}
    found = defaults(tmp_path / "home", HTTP_PROXY="http://proxy.example:3128", NO_PROXY="", **given)
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1,127.0.0.2"


def test_without_a_proxy_the_environment_names_none(tmp_path: Path) -> None:
    assert "NO_PROXY" not in defaults(tmp_path / "home")


def test_only_its_owner_can_open_the_home_and_its_databases(tmp_path: Path) -> None:
    home = tmp_path / "home"
    defaults(home)
    assert [mode(path) for path in (home, home / "state")] == [0o700, 0o700]
    database = home / "state" / "mlflow.db"
    database.write_text("")
    for path, loose in ((home, 0o755), (home / "state", 0o775), (database, 0o644)):
        path.chmod(loose)
    defaults(home)
    assert [mode(path) for path in (home, home / "state", database)] == [0o700, 0o700, 0o600]


def test_a_folder_that_many_use_stays_open_and_the_state_in_it_does_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    defaults(tmp_path)
    assert mode(tmp_path) == 0o1777
    assert mode(tmp_path / "state") == 0o700


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_the_user_set_wins(tmp_path: Path) -> None:
    found = defaults(tmp_path, PREFECT_HOME="/srv/prefect", HF_HOME="/srv/hf")
    assert found["PREFECT_HOME"] == "/srv/prefect"
    assert "HF_HUB_CACHE" not in found


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="TICKERFORGE_HOME"):
        set_embedded_defaults(Workspace(tmp_path / "file" / "home"))


def test_the_revision_is_a_commit_of_this_checkout_or_the_installed_version() -> None:
    revision = git_revision().removesuffix("-dirty")
    is_commit = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    assert is_commit or revision == package_version()


def test_forecasting_and_cards_need_neither_prefect_nor_mlflow() -> None:
    code = (
        "import sys, tickerforge.tasks.models.forecasting, tickerforge.tasks.models.adapters\n"
        "import tickerforge.tasks.store.artifacts\n"
        "print([name for name in ('prefect', 'mlflow', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
