"""CPU time, memory and bytes of preprocessing, compared with only reading the CSV files and writing the Parquet files.

    python tests/benchmarks/preprocess.py --data prices/          # a folder of price files, both scopes
    python tests/benchmarks/preprocess.py --synthetic 500 1000    # that many synthetic tickers of 2,500 days
    python tests/benchmarks/preprocess.py --processes 1 2         # half of the tickers in each of two processes

Each figure comes from a process of its own, without its imports. The floor is measured in the same run: pyarrow reads
every CSV file, and writes tables that are already in memory, with the same content as the artifacts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SESSIONS = 2500


def measured(folder: Path, store: Path, *, scope: str, part: tuple[int, int] = (0, 1)) -> dict[str, float]:
    """Preprocess every n-th ticker of a folder; measure CPU seconds without imports, windows and peak bytes."""
    from tickerforge.features.config import FeatureConfig
    from tickerforge.flows.prices.preprocess import preprocess
    from tickerforge.tasks.prices.folders import list_tickers
    from tickerforge.tasks.store.artifacts import Store

    names = list_tickers(folder)[part[0] :: part[1]]
    preprocess_imports()
    config = FeatureConfig(indicator_scope=scope)
    start, wall = time.process_time(), time.perf_counter()
    results = preprocess(folder, names, features=config, store=Store(store))
    cpu, wall = time.process_time() - start, time.perf_counter() - wall
    refs = [each.windows for each in results if each.windows is not None]
    windows = sum(int(str(ref.meta[split])) for ref in refs for split in ("train", "validation", "test"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tickers": len(refs), "failed": len(results) - len(refs), "windows": windows, "cpu": cpu, "wall": wall,
            "peak": peak}  # fmt: skip


def preprocess_imports() -> None:
    """Import what is otherwise imported only when needed, and load the calendar of New York."""
    from datetime import date

    import tickerforge.features.windows  # noqa: F401
    from tickerforge.tasks.prices.sessions import sessions_between

    sessions_between(date(2012, 1, 1), date(2029, 1, 1), exchange="XNYS")


def floor(folder: Path, store: Path) -> dict[str, float]:
    """Measure the CPU seconds of reading all CSV files and of writing all stored tables again."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    options = pyarrow.csv.ReadOptions(use_threads=False)
    reading = writing = 0.0
    for path in sorted(folder.glob("*.csv")):
        start = time.process_time()
        pyarrow.csv.read_csv(path, read_options=options)
        reading += time.process_time() - start
    written = 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(store.glob("*/*/*.parquet")):
            table = pq.read_table(path, use_threads=False)
            start = time.process_time()
            pq.write_table(table, Path(scratch) / "table.parquet")
            writing += time.process_time() - start
            written += path.stat().st_size
    return {"reading": reading, "writing": writing, "bytes": written}


def apart(function: str, **options: object) -> subprocess.Popen[str]:
    """Start one of the functions above in a process of its own."""
    argument = json.dumps({"function": function, **options})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
    return subprocess.Popen([sys.executable, __file__, "--measure", argument], stdout=subprocess.PIPE, text=True,
                            env=environment)  # fmt: skip


def answer(process: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the measurement ended with exit code {process.returncode}")
    return json.loads(out.splitlines()[-1])


def report(name: str, folder: Path, store: Path, *, scope: str) -> dict[str, float]:
    done = answer(apart("measured", folder=str(folder), store=str(store), scope=scope))
    least = answer(apart("floor", folder=str(folder), store=str(store)))
    total = least["reading"] + least["writing"]
    print(
        f"{name:<28}{done['tickers']:>6.0f} tickers {done['windows']:>10,.0f} windows {done['cpu']:>8.2f} s CPU "
        f"{done['windows'] / done['cpu']:>9,.0f} windows/s {done['peak'] / 2**20:>5.0f} MB peak "
        f"{least['bytes'] / 1e6:>7.1f} MB; floor {least['reading']:.2f} + {least['writing']:.2f} s, "
        f"ratio {done['cpu'] / total:.1f}",
        flush=True,
    )
    return done


def write_market(folder: Path, tickers: int) -> Path:
    """Write price files of the synthetic market, each with a seed of its own."""
    from tickerforge.features.config import SyntheticConfig
    from tickerforge.features.synthetic import market
    from tickerforge.tasks.prices.price_files import as_csv

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(tickers):
        path = folder / f"S{number:05d}.csv"
        if not path.exists():
            path.write_bytes(as_csv(market(SyntheticConfig(sessions=SESSIONS, seed=number)).round(6)))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of price files")
    parser.add_argument("--scopes", nargs="*", default=["series", "window"], help="of the indicators, with --data")
    parser.add_argument("--synthetic", type=int, nargs="*", default=[], help="numbers of synthetic tickers")
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="numbers of processes")
    parser.add_argument("--market", type=Path, help="where synthetic price files are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        options = json.loads(asked.measure)
        function = {"measured": measured, "floor": floor}[options.pop("function")]
        options |= {name: Path(options[name]) for name in ("folder", "store")}
        print(json.dumps(function(**options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if asked.data:
            for scope in asked.scopes:
                report(f"{asked.data.name}, {scope} scope", asked.data, scratch / scope, scope=scope)
            for processes in asked.processes:
                store = scratch / f"processes-{processes}"
                start = time.perf_counter()
                running = [
                    apart("measured", folder=str(asked.data), store=str(store), scope="window", part=[part, processes])
                    for part in range(processes)
                ]
                slowest = max(answer(each)["wall"] for each in running)
                print(f"{processes} processes: {slowest:.2f} s, {time.perf_counter() - start:.2f} s with imports")
        for tickers in asked.synthetic:
            market = write_market((asked.market or scratch / "market") / str(tickers), tickers)
            report(f"synthetic {tickers}", market, scratch / f"store-{tickers}", scope="series")


if __name__ == "__main__":
    main()
