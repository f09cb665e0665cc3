"""A registered model elsewhere: the same forecasts, no code from the registry, clear refusals."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

import clean_environment
from registered_files import stored_base_model, stored_files
from tickerforge.tasks.models.adapters import read_card
from tickerforge.tasks.models.forecasting import forecast_next
from tickerforge.tasks.prices.price_files import as_csv
from tickerforge.tasks.registry.integrity import write_checksums
from tickerforge.tasks.registry.model_code import needed_modules, write_model_code
from tickerforge.tasks.registry.registration import RegisteredModel, fetch_registered, pull_adapter, register_adapter
from tickerforge.tasks.registry.versions import RegisteredAdapter
from tickerforge.tasks.tracking.client import Tracking, client_of
from tickerforge.tasks.tracking.stage_runs import start_pipeline
from tickerforge.tasks.windows.preprocess import read_bars
from tickerforge.training.errors import AdapterError
from trained_pieces import FEATURES, Pieces

# MLflow uses what pandas 3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AT = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
EVALUATION_SEED = 0


@pytest.fixture(scope="module")
def registered(made: Pieces, tracking: Tracking) -> RegisteredModel:
    return register(made, tracking, "PULL")


def register(made: Pieces, tracking: Tracking, ticker: str) -> RegisteredModel:
    card = made.card().model_copy(update={"ticker": ticker, "seed": EVALUATION_SEED})
    run = start_pipeline(tracking, "pulling", params={}, tags={})
    return register_adapter.fn(run, made.sft, card=card, bars=made.bars, comparison=made.comparison, at=AT)


def clean_process(
    made: Pieces, tracking: Tracking, registered: RegisteredModel, folder: Path, *also: Path
) -> tuple[dict, pd.DataFrame]:
    """What a forecast in a clean environment says of itself, and the forecast."""
    bars, target = folder / "bars.csv", folder / "forecast.csv"
    bars.write_bytes(as_csv(read_bars(made.bars)))
    program = Path(clean_environment.__file__)
    arguments = [Path(pd.__file__).parents[1], tracking.uri, registered.uri, bars, target, *also]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), pd.read_csv(target, parse_dates=["date"])


def test_a_clean_environment_forecasts_from_a_plain_frame_beside_files_named_like_our_packages(
    made: Pieces, tracking: Tracking, registered: RegisteredModel, tmp_path: Path
) -> None:
    for name in ("tasks.py", "flows.py", "tests.py", "features/__init__.py", "training/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('a file of the user was imported')\n")
    said, forecast = clean_process(made, tracking, registered, tmp_path)
    assert said["importable"] == []
    assert len(said["ours"]) == 1
    here = mlflow.pyfunc.load_model(registered.uri).predict(read_bars(made.bars))
    pd.testing.assert_frame_equal(forecast, here, check_dtype=False)


@pytest.mark.chaos
def test_the_code_that_came_with_the_model_runs_whatever_else_is_installed_or_imported(
    made: Pieces, tracking: Tracking, registered: RegisteredModel, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for package in ("features", "training", "evaluation", "tasks"):
        (other / "tickerforge" / package).mkdir(parents=True)
        (other / "tickerforge" / package / "__init__.py").write_text("VERSION = 'another'\n")
    (other / "tickerforge" / "features" / "prompts.py").write_text("raise RuntimeError('another version')\n")
    said, forecast = clean_process(made, tracking, registered, tmp_path, other)
    assert said["foreign_kept"]
    assert len(forecast) == FEATURES.horizon


def test_the_code_of_a_model_is_what_a_forecast_imports_and_nothing_else(tmp_path: Path) -> None:
    main, package = write_model_code(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in names} == {".py"}
    assert names == {
        main.name,
        f"{package.name}/__init__.py",
        *(
            f"{package.name}/{name}"
            for name in needed_modules("tasks/registry/pyfunc_model.py")
            if name != f"tasks/registry/{main.name}"
        ),
    }
    assert not [
        name for name in names if name.endswith(("registration.py", "stage_runs.py", "artifacts.py", "report.py"))
    ]
    assert f"from {package.name}.tasks.models.forecasting import" in main.read_text()
    assert write_model_code(tmp_path / "again")[1].name == package.name


def test_the_pulled_model_gives_the_forecasts_that_the_report_evaluated(
    made: Pieces, registered: RegisteredModel
) -> None:
    model = mlflow.pyfunc.load_model(registered.uri)
    bars = read_bars(made.bars)
    (stored,) = [ref for ref in made.forecasts if ref.meta["model"] == "sft"]
    evaluated = pd.read_parquet(stored.path / "forecasts.parquet").sort_values("origin")
    for row in (evaluated.iloc[-1], evaluated.iloc[-2], evaluated.iloc[0]):
        forecast = model.predict(bars[bars["date"] <= row["origin"]])
        np.testing.assert_allclose(forecast["median"], row["median"], rtol=1e-12)
        assert (forecast["valid"] == row["n_valid"]).all()


def test_the_model_names_what_it_needs_and_only_that(registered: RegisteredModel) -> None:
    lines = (stored_files(registered) / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in lines} == {
        *("mlflow", "numpy", "pandas", "pydantic", "ta-lib", "torch", "transformers", "peft", "exchange-calendars"),
    }
    assert all("==" in line and "+" not in line for line in lines)


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    registered: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "talib" else find_spec(name))
    with pytest.raises(ModuleNotFoundError, match="this model needs ta-lib to forecast: pip install ta-lib "):
        mlflow.pyfunc.load_model(registered.uri)


def test_the_model_takes_dates_as_texts_and_refuses_bad_frames_clearly(
    made: Pieces, registered: RegisteredModel
) -> None:
    model = mlflow.pyfunc.load_model(registered.uri)
    bars = read_bars(made.bars)
    texts = bars.assign(date=bars["date"].dt.strftime("%Y-%m-%d"))
    for same in (texts, bars.iloc[::-1]):
        pd.testing.assert_frame_equal(model.predict(same), model.predict(bars))

    def with_value(column: str, value: object) -> pd.DataFrame:
        changed = bars.astype({column: object}) if isinstance(value, str) else bars.copy()
        changed.loc[7, column] = value
        return changed

    for frame, message in (
        (bars.drop(columns="open"), "PULL: column Open is missing"),
        (with_value("close", "dear"), "PULL, row 8, column close: 'dear' is not a number"),
        (with_value("close", -3.0), r"PULL, row 8, column close: -3\.0 is not a positive price"),
        (with_value("open", np.nan), "PULL, row 8, column open: nan is a missing value"),
        (with_value("volume", -1.0), "negative volume"),
        (with_value("date", pd.NaT), "PULL, row 8, column date: 'NaT' is not a date"),
        (texts.assign(date="soon"), "PULL, row 1, column date: 'soon' is not a date"),
        (bars.iloc[[*range(50, 100), *range(50)]], "sort the rows by date, oldest first"),
        (bars.tail(20), "PULL: 20 sessions are too few for one window; 60 are needed"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(frame)


def test_the_model_takes_bars_as_yahoo_and_its_libraries_give_them(made: Pieces, registered: RegisteredModel) -> None:
    model = mlflow.pyfunc.load_model(registered.uri)
    bars = read_bars(made.bars)
    expected = model.predict(bars)
    content = as_csv(bars)
    header, *rows = content.decode().splitlines()
    gaps = "\n".join([header, rows[0], "2000-01-05,null,null,null,null,null,null", *rows[1:]])
    file = pd.read_csv(io.BytesIO(content))
    history = pd.read_csv(io.BytesIO(content), index_col="Date", parse_dates=True)
    zoned = history.set_index(history.index.tz_localize("America/New_York")).assign(Dividends=0.0)
    several = pd.concat({"PULL": history, "OTHER": history * 3}, axis=1, names=["Ticker", "Price"])
    for frame in (
        file,
        history,
        zoned,
        pd.read_csv(io.BytesIO(content), index_col=0),
        pd.read_csv(io.StringIO(gaps)),
        several,
        several.swaplevel(axis=1),
        file.to_dict("list"),
    ):
        pd.testing.assert_frame_equal(model.predict(frame), expected)


def test_the_model_warns_of_prices_that_cannot_be_its_tickers(
    made: Pieces, registered: RegisteredModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = mlflow.pyfunc.load_model(registered.uri)
    bars = read_bars(made.bars)
    model.predict(bars)
    model.predict(bars.head(200))
    assert "times that of" not in caplog.text
    prices = ["open", "high", "low", "close", "adj_close"]
    model.predict(bars.assign(**{column: bars[column] * 2 for column in prices}))
    assert "is 2 times that of" in caplog.text
    assert "If these are not prices of PULL, pass the right ones" in caplog.text
    caplog.clear()
    jump = bars.copy()
    jump.loc[len(jump) - 1, prices] *= 0.5
    with pytest.raises(ValueError, match=r"PULL: the adjusted close jumps in the last \d+ sessions(.|\n)*split of 2"):
        model.predict(jump)
    model.predict(jump, params={"jumps": "accept"})
    assert "is 0.5 times that of" in caplog.text
    assert "PULL: the adjusted close jumps: " in caplog.text


def test_pulling_and_forecasting_run_no_code_from_the_registry(
    made: Pieces, tracking: Tracking, tmp_path: Path
) -> None:
    registered = register(made, tracking, "EVIL")
    files = stored_files(registered)
    ran = tmp_path / "ran"
    attack = f"open({str(ran)!r}, 'w').close()\n"
    for path in [files / "pyfunc_model.py", *files.glob("code/*/__init__.py"), *files.glob("code/*/tasks/*.py")]:
        path.write_text(attack)
    # As early versions do, it has a base model of its own.
    base = shutil.copytree(stored_base_model(registered, tracking), files / "artifacts" / "base_model")
    client_of(tracking).delete_model_version_tag(registered.name, registered.version, "base_model_files")
    config = base / "config.json"
    remote = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | remote))
    settings = files / "artifacts" / "adapter" / "adapter_config.json"
    mapping = {"auto_mapping": {"base_model_class": "Model", "parent_library": "evil"}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | mapping))
    # A person who can change the files can also change their list.
    (files / "artifacts" / "adapter" / "checksums.json").unlink()
    digest = write_checksums(files / "artifacts")
    client_of(tracking).set_model_version_tag(registered.name, registered.version, "checksums_sha256", digest)

    folder = pull_adapter(tracking, "EVIL@challenger", dest=tmp_path / "pulled")
    assert not list(folder.rglob("*.py"))
    adapter = RegisteredAdapter.parse("EVIL@challenger", tracking=tracking)
    card = read_card(fetch_registered(tracking, adapter, cache=tmp_path / "cache"))
    table = forecast_next(
        read_bars(made.bars),
        ticker="EVIL",
        base_model=card.base_model_location(folder),
        adapter=folder,
        features=card.features,
        training=card.training,
        seed=card.seed,
    )
    assert len(table) == FEATURES.horizon
    assert not ran.exists()


@pytest.mark.parametrize(
    "planted",
    ["adapter/adapter_model.bin", "adapter/evil.py", "base_model/pytorch_model.bin", "base_model/modeling_evil.py"],
)
def test_weights_as_pickle_and_code_are_not_pulled(
    planted: str, made: Pieces, tracking: Tracking, registered: RegisteredModel, tmp_path: Path
) -> None:
    part, _, name = planted.partition("/")
    parts = {
        "adapter": stored_files(registered) / "artifacts" / "adapter",
        "base_model": stored_base_model(registered, tracking),
    }
    path = parts[part] / name
    path.write_bytes(b"\x80\x04.")
    try:
        with pytest.raises(AdapterError, match=planted):
            pull_adapter(tracking, f"PULL@{registered.version}", dest=tmp_path / "pulled")
    finally:
        path.unlink()
    assert not (tmp_path / "pulled").exists()


def test_pickled_weights_of_a_base_model_are_not_loaded(made: Pieces, tmp_path: Path) -> None:
    from tickerforge.training.backends.loading import load_base
    from tickerforge.training.errors import BaseModelError

    shutil.copytree(made.base_model.location, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="safetensors"):
        load_base(str(tmp_path / "base"), trust_remote_code=False)
