"""`python -m training`: the stages by themselves, without Prefect and MLflow."""

from tickerforge.training.command import app

app(prog_name="python -m training")
