"""kill -9 at random instants over all stages: what is started again ends with the same bytes.

The processes are forked from one that has imported everything, so that kills hit stages and not imports.
"""

import multiprocessing
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from killed_stages import all_stages

pytestmark = pytest.mark.chaos

KILLS = 20
SEED = 20
PRELOADED = [
    "tickerforge.tasks.prices.market_data",
    "tickerforge.tasks.windows.preprocess",
    "tickerforge.tasks.models.train",
    "tickerforge.training.backends.trl_",
    "tickerforge.training.stages",
]


def at_work(root: Path) -> str:
    """The stage that lies half-built in a store."""
    return next((path.name.rsplit("-", 1)[0] for path in root.glob("partial/*")), "in between")


def test_stages_that_are_killed_at_random_instants_end_with_the_same_bytes(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)

    def started(root: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=all_stages, args=(root,))
        process.start()
        return process

    warm = started(tmp_path / "warm")
    while at_work(tmp_path / "warm") == "in between":
        assert warm.is_alive()
        time.sleep(0.05)
    warm.kill()
    warm.join()
    # Always in the same folder: an adapter's settings name the folder of its base model.
    root = tmp_path / "store"
    began = time.monotonic()
    undisturbed = started(root)
    undisturbed.join()
    seconds = time.monotonic() - began
    assert undisturbed.exitcode == 0
    expected = all_stages(root)
    assert set(expected) == {"base_model", "grpo_1st", "sft_data", "sft", "grpo_2nd"}

    rng = np.random.default_rng(SEED)
    hits: Counter[str] = Counter()
    rounds = 0
    while hits.total() < KILLS:
        rounds += 1
        shutil.rmtree(root)
        process = started(root)
        while hits.total() < KILLS:
            process.join(timeout=float(rng.uniform(0, seconds)))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            hits[at_work(root)] += 1
            process = started(root)
        process.join()
        assert process.exitcode == 0
        assert all_stages(root) == expected
        assert not list((root / "partial").glob("*"))
    print(f"{seconds:.1f} s undisturbed; {rounds} rounds; kills by stage: {dict(hits)}")
    assert len(set(hits) - {"in between"}) >= 3
