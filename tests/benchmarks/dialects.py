"""CPU time of preprocessing the same prices in other dialects, compared with Yahoo's columns.

    python tests/benchmarks/dialects.py --data prices/            # a folder of price files
    python tests/benchmarks/dialects.py --tickers 64              # that many synthetic tickers of 2,500 days

Each figure comes from a process of its own, without its imports, and is the least of three runs. *Reading* is reading
the files alone; *preprocessing* also makes bars, windows and reports, and writes them.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

import preprocess

import price_sources
from tickerforge.features.prices.bars import parse_columns, read_csv

RUNS = 3
# Dialects that keep the adjusted close, so that all make the same bars.
DIALECTS: dict[str, tuple[str, Callable[[price_sources.Bars], price_sources.Written]]] = {
    "Yahoo's columns": ("csv", lambda bars: price_sources.as_yahoo(bars)),
    "one other name": ("csv", lambda bars: price_sources.as_yahoo(bars).replace("Adj Close", "adjClose", 1)),
    **{name: ("csv", price_sources.ADJUSTED[name]) for name in ("yfinance download", "Alpha Vantage", "Excel, US")},
    "German Excel, adjusted": ("csv", price_sources.excel_german_adjusted),
    "Parquet": ("parquet", price_sources.parquet),
}


def write(dialect: str, source: Path, folder: Path) -> Path:
    ending, written = DIALECTS[dialect]
    folder.mkdir()
    for path in sorted(source.glob("*.csv")):
        content = written(read_csv(path, ticker=path.stem))
        (folder / f"{path.stem}.{ending}").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def reading(folder: Path) -> float:
    """Measure the CPU milliseconds of reading one file, the mean over all."""
    files = [(path, path.read_bytes()) for path in sorted(folder.iterdir())]
    start = time.process_time()
    for path, raw in files:
        parse_columns(raw, path=path, ticker=path.name.partition(".")[0])
    return (time.process_time() - start) / len(files) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of price files in Yahoo's columns")
    parser.add_argument("--tickers", type=int, default=64, help="number of synthetic tickers, without --data")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        source = asked.data or preprocess.write_market(scratch / "market", asked.tickers)
        usual = (0.0, 0.0)
        for number, name in enumerate(DIALECTS):
            folder = write(name, source, scratch / f"dialect-{number}")
            read = min(reading(folder) for _ in range(RUNS))
            stores = [scratch / f"store-{number}-{run}" for run in range(RUNS)]
            done = [
                preprocess.answer(preprocess.apart("measured", folder=str(folder), store=str(store), scope="series"))
                for store in stores
            ]
            if any(each["failed"] for each in done):
                raise SystemExit(f"{name}: {done[0]['failed']:.0f} tickers failed")
            whole = min(each["cpu"] / each["tickers"] for each in done) * 1e3
            usual = usual if any(usual) else (read, whole)
            print(
                f"{name:<26} reading {read:>6.2f} ms per ticker ({read / usual[0]:>4.1f} x), preprocessing "
                f"{whole:>6.2f} ms ({whole / usual[1]:>4.2f} x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
