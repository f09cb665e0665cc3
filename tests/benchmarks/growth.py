"""Disk space and database rows of nights, before and after `tickerforge prune`, with a simulated clock.

Each night has one more session, so that every ticker is trained and registered again. The model is tiny, and only a
few steps are trained: sizes of databases, reports and records are those of any run, sizes of adapters are those of the
tiny model. 4 tickers x 4 nights take about ten minutes on two cores.

    PYTHONPATH=tests/support python tests/benchmarks/growth.py --tickers 4 --nights 4 --keep 2
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from aging import make_older
from tickerforge.features.synthetic import market
from tickerforge.tasks.base.paths import Workspace
from tickerforge.tasks.prices.price_files import keep
from tiny_pipeline import ASSIGNMENTS, tiny_config

SESSIONS_PER_YEAR = 250


def cli(home: Path, work: Path, *arguments: str) -> str:
    """Run a command and return what it printed."""
    environment = {**os.environ, "TICKERFORGE_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tickerforge.deployments.cli", *arguments]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def night(home: Path, work: Path, *, tickers: int, sessions: int) -> None:
    """Write prices with this many sessions, and run the night over them."""
    for number in range(tickers):
        bars = market(tiny_config().synthetic.model_copy(update={"sessions": 500, "seed": number}))
        keep(work / "prices", f"T{number:02}", bars.head(sessions))
    settings = [f"--set={each}" for each in ASSIGNMENTS if not each.startswith(("stock=", "evaluation.pictures"))]
    cli(home, work, "nightly", "--data", "prices", *settings)


def main() -> None:
    """Print the table of `prune`, and what a night adds per ticker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickers", type=int, default=4)
    parser.add_argument("--nights", type=int, default=4)
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Keep everything there.")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="tickerforge-growth-"))
    home, work = folder / "home", folder / "work"
    work.mkdir(parents=True)
    for number in range(options.nights):
        make_older(Workspace(home), work, days=1)
        night(home, work, tickers=options.tickers, sessions=400 + number)
        print(f"after night {number + 1}", flush=True)
        print(cli(home, work, "prune", "--keep-nights", "1", "--dry-run"), flush=True)
    print(cli(home, work, "prune", "--keep-nights", str(options.keep), "--yes"))


if __name__ == "__main__":
    main()
