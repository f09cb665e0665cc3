"""The commands `tickerforge data`, each against real files and a server on this machine."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import read_csv
from tickerforge.features.synthetic import market
from tickerforge.flows.cli.commands import app
from tickerforge.tasks.prices import source_yahoo
from tickerforge.tasks.prices.price_files import as_csv, keep
from web_server import Reply, web_server
from yahoo_server import up_to, yahoo_server

Cli = Callable[..., Result]
YESTERDAY = f"{pd.Timestamp.now('America/New_York') - pd.offsets.BDay(1):%Y-%m-%d}"
BARS = up_to(market(SyntheticConfig(sessions=150)), last=YESTERDAY)


@pytest.fixture
def cli(working_folder: Path, quiet_logging: None) -> Cli:
    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)

    return call


def rows(result: Result) -> dict[str, list[str]]:
    """The table's lines by their first word."""
    return {words[0]: words[1:] for line in result.stdout.splitlines() if (words := line.split())}


def test_a_folder_is_made_from_yahoo_and_brought_up_to_date_later(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with yahoo_server(monkeypatch, {"AAPL": BARS.head(140), "MSFT": BARS}) as yahoo:
        yahoo.now = f"{YESTERDAY} 17:30"
        made = cli("yahoo", "--stock", "AAPL", "--stock", "MSFT", "--data", "prices", "--start", "2012-01-01")
        assert made.exit_code == 0, made.output
        assert {stock: row[:2] for stock, row in rows(made).items()} == {
            "stock": ["sessions", "new"],
            "AAPL": ["140", "140"],
            "MSFT": ["150", "150"],
        }
        assert {first for _, first in yahoo.asked} == {"2012-01-01"}
        yahoo.bars["AAPL"] = BARS
        again = cli("yahoo", "--data", "prices")
        assert again.exit_code == 0, again.output
        assert rows(again)["AAPL"][:2] == ["150", "10"]
        assert rows(again)["MSFT"][:2] == ["150", "0"]
    pd.testing.assert_frame_equal(read_csv("prices/AAPL.csv", ticker="AAPL"), BARS)


def test_one_stock_that_yahoo_does_not_know_leaves_the_others_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with yahoo_server(monkeypatch, {"AAPL": BARS}) as yahoo:
        yahoo.now = f"{YESTERDAY} 17:30"
        result = cli("yahoo", "--stock", "NOPE", "--stock", "../X", "--stock", "AAPL", "--data", "prices")
    assert result.exit_code == 2
    assert "error: NOPE: Yahoo" in result.stderr
    assert "error: '../X' is not a ticker name" in result.stderr
    assert [path.name for path in Path("prices").iterdir()] == ["AAPL.csv"]


def test_the_stocknet_archive_fills_a_folder_but_not_over_longer_histories(cli: Cli) -> None:
    keep(Path("prices"), "AAPL", BARS)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for stock in ("AAPL", "REX"):
            target.writestr(f"stocknet/price/raw/{stock}.csv", as_csv(BARS.head(120)))
    with web_server(lambda path, headers: Reply(packed.getvalue())) as web:
        result = cli("stocknet", "--data", "prices", "--url", f"{web.url}/a.zip")
        assert result.exit_code == 2
        assert "AAPL.csv holds 30 sessions that the new prices lack" in result.stderr
        assert rows(result)["REX"][:2] == ["120", "120"]
        assert cli("stocknet", "--data", "prices", "--stock", "REX", "--url", f"{web.url}/a.zip").exit_code == 0
        assert len(web.asked) == 1
    assert Path("prices/AAPL.csv").read_bytes() == as_csv(BARS)


def test_a_wrong_hash_of_the_archive_ends_with_nothing_written(cli: Cli) -> None:
    with web_server(lambda path, headers: Reply(b"something")) as web:
        result = cli("stocknet", "--data", "prices", "--url", f"{web.url}/a.zip", "--sha256", "0" * 64)
    assert result.exit_code == 2
    assert f"should be {'0' * 64}" in result.stderr
    assert not Path("prices").exists()


def test_a_folder_is_checked_and_copied_and_its_faulty_file_named(cli: Cli) -> None:
    keep(Path("downloads"), "GOOD", BARS)
    Path("downloads/BAD.csv").write_bytes(as_csv(BARS).replace(b"High", b"Note"))
    result = cli("import", "downloads", "--data", "prices")
    assert result.exit_code == 2
    assert "downloads/BAD.csv: column High is missing" in result.stderr
    assert [path.name for path in Path("prices").iterdir()] == ["GOOD.csv"]


def test_the_synthetic_market_becomes_a_file_of_the_settings(cli: Cli) -> None:
    result = cli("synthetic", "--data", "prices", "--stock", "DEMO", "--set", "synthetic.sessions=130")
    assert result.exit_code == 0, result.output
    pd.testing.assert_frame_equal(read_csv("prices/DEMO.csv", ticker="DEMO"), market(SyntheticConfig(sessions=130)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("yahoo", "--data", "nowhere"), "no folder nowhere"),
        (("yahoo", "--data", ".", "--start", "yesterday"), "write a day as YYYY-MM-DD"),
        (("yahoo", "--data", "."), "name them with --stock"),
        (("import", "nowhere", "--data", "prices"), "no folder nowhere"),
        (("synthetic", "--data", "prices", "--set", "synthetic.session=5"), "did you mean synthetic.sessions"),
    ],
)
def test_what_cannot_be_done_is_said(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_empty_folder_is_filled_from_a_list_and_failures_do_not_stop_the_rest(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"T{number}" for number in range(9)]
    Path("sp500.csv").write_text("Symbol,Security\n" + "".join(f"{each},Name\n" for each in [*names, "NOPE", "BRK.B"]))
    with yahoo_server(monkeypatch, dict.fromkeys([*names, "BRK-B"], BARS)) as yahoo:
        yahoo.now = f"{YESTERDAY} 17:30"
        monkeypatch.setattr(source_yahoo, "PAUSE_SECONDS", 0.01)
        result = cli("yahoo", "--tickers", "sp500.csv", "--data", "prices")
    assert result.exit_code == 2
    assert "error: NOPE: Yahoo" in result.stderr
    assert sorted(path.stem for path in Path("prices").iterdir()) == sorted([*names, "BRK-B"])
    assert [row for row in rows(result) if row != "stock"] == [*names, "BRK-B"]
    assert all(read_csv(path, ticker=path.stem).equals(BARS) for path in Path("prices").iterdir())
