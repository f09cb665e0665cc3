"""The registered model, as MLflow runs it: bars in, the coming sessions out."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from tasks.adapters import read_card
from tasks.forecasting import forecast_next


class TickerForecaster(PythonModel):
    """Forecasts the next sessions of the ticker whose adapter lies in the model's artifacts."""

    def load_context(self, context: Any) -> None:
        """Read the adapter's card; the language model itself is loaded at the first forecast."""
        self.adapter = Path(context.artifacts["adapter"])
        self.card = read_card(self.adapter)
        # A downloaded card must not decide which code runs here.
        self.training = self.card.training.model_copy(update={"backend": "auto", "trust_remote_code": False})
        self.base_model = context.artifacts.get("base_model") or self.card.base_model

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Forecast the sessions after the last row.

        Args:
            context: Not used.
            model_input: Bars, oldest first: `date open high low close adj_close volume`, USD, 80 sessions or more.
            params: Not used.

        Returns:
            `date median lower upper` of the next sessions, USD; the bounds hold the central 80 %.
        """
        return forecast_next(
            model_input,
            ticker=self.card.ticker,
            base_model=self.base_model,
            adapter=self.adapter,
            features=self.card.features,
            training=self.training,
            seed=self.card.seed,
        )


mlflow.models.set_model(TickerForecaster())
