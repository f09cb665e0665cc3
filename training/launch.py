"""Training in this process, or in child processes: how they start, report and end.

An import of Unsloth patches trl, transformers and peft permanently for the whole process, and several GPUs need one
process each. In both cases the trainers run in `python -m tickerforge.training FOLDER`, directly or under `accelerate
launch`. The folder holds the job, its progress, its outcome and its output. A child whose parent dies ends at once: its
standard input is a pipe that the parent holds open.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import IO, Any

import pandas as pd

from tickerforge.features.atomic import write_atomically
from tickerforge.training import errors
from tickerforge.training.backends import Backend, gpu_names, named, release_models
from tickerforge.training.backends.base import TrainingJob
from tickerforge.training.backends.loading import check_adapter_files
from tickerforge.training.children import child_environment, end_child, end_with_parent, why_it_ended
from tickerforge.training.config import LaunchConfig, TrainingConfig
from tickerforge.training.contracts import Example, Progress
from tickerforge.training.errors import BackendUnavailable, TrainingDiverged, TrainingError

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_JOB, _EXAMPLES, _ACCEPTED, _PROGRESS, _OUTPUT = (
    "job.json",
    "examples.json",
    "accepted.parquet",
    "progress.jsonl",
    "output.txt",
)


def launch_training(backend: Backend, data: Sequence[Example] | pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
    """Train in this process or in child processes, depending on the backend and `job.config.launch`.

    Args:
        backend: Backend that trains.
        data: Train windows, or the accepted answers of the stage `sft`.
        job: Stage, models, settings and folder.

    Returns:
        The metrics of the last step.

    Raises:
        TrainingError: If the trainer raises it in any process, or a process ends without a result.
    """
    release_models()
    if job.adapter is not None:
        # Before the import of the trainers, which takes much longer.
        check_adapter_files(job.adapter)
    launch = job.config.launch
    if backend.name == "unsloth" or launch.isolate or launch.processes > 1:
        return _train_in_processes(backend.name, data, job=job)
    return _trainer(backend, data)(data, job=job)


def work(folder: Path) -> None:
    """Do the job that `_train_in_processes` wrote into a folder; each child process runs this."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    rank = int(os.environ.get("RANK", "0"))
    name, data, job = _read_job(folder, reports=rank == 0)
    try:
        outcome: dict[str, Any] = {"summary": _trainer(named(name), data)(data, job=job)}
    except TrainingError as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, TrainingDiverged):
            outcome["last_good"] = str(error.last_good) if error.last_good else None
    write_atomically(folder / f"outcome-{rank}.json", json.dumps(outcome))
    if "error" in outcome:
        # Otherwise the launcher regards this process as finished, and the others wait for it.
        raise SystemExit(1)


def child_command(launch: LaunchConfig, folder: Path) -> list[str]:
    """Return the command line of the child; accelerate starts several processes and chooses a free port.

    Raises:
        BackendUnavailable: If fewer GPUs are visible than `launch.processes`.
    """
    job = ["-m", "tickerforge.training", str(folder)]
    if launch.processes == 1:
        return [sys.executable, *job]
    gpus = len(gpu_names())
    if 0 < gpus < launch.processes:
        raise BackendUnavailable(
            f"launch.processes = {launch.processes} needs as many GPUs, and {gpus} can be seen: lower it, or make more "
            "GPUs visible by --cuda-devices"
        )
    # `--multi_gpu` means one process per GPU on one machine; on a CPU the processes communicate by gloo.
    options = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    options += ["--num_processes", str(launch.processes), "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *job]


def _trainer(backend: Backend, data: Sequence[Example] | pd.DataFrame) -> Callable[..., dict[str, float]]:
    return backend.train_sft if isinstance(data, pd.DataFrame) else backend.train_grpo


def _train_in_processes(backend: str, data: Sequence[Example] | pd.DataFrame, *, job: TrainingJob) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tickerforge-") as name:
        folder = Path(name)
        _write_job(folder, backend, data, job=job)
        with (folder / _OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                child_command(job.config.launch, folder),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )
        try:
            _follow(process, folder / _PROGRESS, job=job)
        finally:
            end_child(process)
        return _outcome(folder, stage=job.stage, code=process.returncode)


def _environment() -> dict[str, str]:
    return child_environment() if gpu_names() else child_environment() | {"ACCELERATE_USE_CPU": "true"}


def _follow(process: subprocess.Popen[bytes], path: Path, *, job: TrainingJob) -> None:
    """Forward each step that the child reports, until it ends."""
    path.touch()
    with path.open() as file:
        running = True
        while running:
            try:
                process.wait(_POLL_SECONDS)
                running = False
            except subprocess.TimeoutExpired:
                pass
            for event in _events(file):
                if job.on_progress is not None:
                    job.on_progress(event)


def _events(file: IO[str]) -> list[Progress]:
    events: list[Progress] = []
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return events
        events.append(Progress(**json.loads(line)))


def _outcome(folder: Path, *, stage: str, code: int) -> dict[str, float]:
    """Return the summary of the first process, or raise the error of the process that failed.

    Raises:
        TrainingError: Of the same class as in the child; also if the child ended without a result.
    """
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("outcome-*.json"))]
    for failed in (outcome for outcome in outcomes if "error" in outcome):
        if failed["error"] == TrainingDiverged.__name__:
            last_good = failed["last_good"]
            raise TrainingDiverged(failed["message"], last_good=Path(last_good) if last_good else None)
        raise getattr(errors, failed["error"])(failed["message"])
    if code == 0 and outcomes:
        return dict(outcomes[0]["summary"])
    raise TrainingError(why_it_ended(folder / _OUTPUT, what=stage, code=code))


def _write_job(folder: Path, backend: str, data: Sequence[Example] | pd.DataFrame, *, job: TrainingJob) -> None:
    if isinstance(data, pd.DataFrame):
        data.to_parquet(folder / _ACCEPTED, index=False)
    else:
        rows = [asdict(example) | {"origin": example.origin.isoformat()} for example in data]
        write_atomically(folder / _EXAMPLES, json.dumps(rows))
    order = {
        "backend": backend,
        "stage": job.stage,
        "base_model": job.base_model,
        "adapter": str(job.adapter.resolve()) if job.adapter else None,
        "config": job.config.model_dump(mode="json"),
        "out_dir": str(job.out_dir.resolve()),
        "seed": job.seed,
        "unit": job.unit,
    }
    write_atomically(folder / _JOB, json.dumps(order))


def _read_job(folder: Path, *, reports: bool) -> tuple[str, Sequence[Example] | pd.DataFrame, TrainingJob]:
    order = json.loads((folder / _JOB).read_text())
    data: Sequence[Example] | pd.DataFrame
    if (folder / _ACCEPTED).is_file():
        data = pd.read_parquet(folder / _ACCEPTED)
    else:
        data = [
            Example(**row | {"origin": date.fromisoformat(row["origin"]), "target": tuple(row["target"])})
            for row in json.loads((folder / _EXAMPLES).read_text())
        ]

    def report(event: Progress) -> None:
        with (folder / _PROGRESS).open("a") as file:
            file.write(json.dumps(asdict(event)) + "\n")

    job = TrainingJob(
        stage=order["stage"],
        base_model=order["base_model"],
        adapter=Path(order["adapter"]) if order["adapter"] else None,
        config=TrainingConfig.model_validate(order["config"]),
        out_dir=Path(order["out_dir"]),
        seed=order["seed"],
        unit=order["unit"],
        on_progress=report if reports else None,
    )
    return order["backend"], data, job
