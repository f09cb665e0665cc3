"""The registered model, as MLflow runs it: bars in, the coming sessions out."""

import importlib.util
import json
import shutil
import tempfile
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

# Modules that forecasting needs, and the distributions that provide them.
NEEDED = {"talib": "ta-lib", "exchange_calendars": "exchange-calendars", "transformers": "transformers", "peft": "peft"}


def _check_installed(needed: dict[str, str]) -> None:
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"this model needs {' and '.join(missing)} to forecast: pip install {' '.join(missing)} "
            "(its requirements.txt says in which versions)"
        )


class TickerForecaster(PythonModel):
    """Forecasts the next sessions of a ticker with the adapter in the model's artifacts."""

    def load_context(self, context: Any) -> None:
        """Read how the adapter must be asked; the language model itself is loaded at the first forecast.

        Raises:
            ModuleNotFoundError: If a package is not installed; names it and the command that installs it.
            AdapterError: If a file of the model is not the one that was registered.
        """
        _check_installed(NEEDED)
        from tickerforge.features.config import FeatureConfig
        from tickerforge.tasks.base.paths import Workspace, home
        from tickerforge.tasks.registry.integrity import damage
        from tickerforge.training.config import SMOLLM2, TrainingConfig
        from tickerforge.training.errors import AdapterError

        self.adapter = Path(context.artifacts["adapter"])
        root, package = self.adapter.parents[1], damage.__module__.partition(".")[0]
        code = {package: root / "code" / package, Path(__file__).name: root / Path(__file__).name}
        parts = {name: Path(folder) for name, folder in context.artifacts.items()}
        if address := (context.model_config or {}).get("base_model_files"):
            parts["base_model"] = self._fetched(address)
        if damaged := damage(parts | code):
            raise AdapterError(
                f"the model in {root} is damaged: {damaged}. If this is a copy, download it again; if it is the "
                "registry's own, restore it from a backup, or train and register the adapter again"
            )
        self.card = json.loads((self.adapter / "tickerforge.json").read_text(encoding="utf-8"))
        self.features = FeatureConfig.model_validate(self.card["features"])
        # A downloaded card must not decide which code runs here.
        self.training = TrainingConfig.model_validate(self.card["training"]).model_copy(
            update={"backend": "auto", "trust_remote_code": False}
        )
        self.base_model = str(parts.get("base_model") or self.card["base_model"])
        if self.base_model == SMOLLM2:
            from tickerforge.tasks.models.wheel import smollm2_folder

            _check_installed({"gguf": "gguf"})
            self.base_model = str(smollm2_folder(Workspace(home())))

    def _fetched(self, address: str) -> Path:
        """Download the base model, which MLflow keeps once for all versions, to a folder that lives with the model."""
        from tickerforge.training.errors import AdapterError

        folder = tempfile.mkdtemp(prefix="tickerforge-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder))
        except Exception as error:
            raise AdapterError(
                f"the base model of this adapter cannot be fetched from {address} at the MLflow server "
                f"{mlflow.get_tracking_uri()} ({error}): set MLFLOW_TRACKING_URI to the server where the adapter was "
                "registered. If it is the right one, its files are lost: restore them from a backup, or train and "
                "register the adapter again"
            ) from error

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Forecast the sessions after the last row.

        Args:
            context: Not used.
            model_input: Bars, oldest first: `date open high low close adj_close volume`, USD, 80 sessions or more; in
                Yahoo's columns, or with the dates as index, they are accepted too.
            params: `jumps`: "refuse" (by default), "accept" or "repair" prices that jump as no market does.

        Returns:
            `date median lower upper provisional answers valid` of the next sessions; prices in the currency of the
            bars. The bounds hold the central 80 %; they are NaN if too few of the model's answers were valid. A
            provisional date is a guess, as the holidays of the exchange are not known.
        """
        from tickerforge.evaluation.core.recalibration import Recalibration
        from tickerforge.tasks.models.forecasting import KnownPrice, forecast_next

        known = self.card.get("known_price")
        return forecast_next(
            pd.DataFrame(model_input),
            ticker=self.card["ticker"],
            base_model=self.base_model,
            adapter=self.adapter,
            features=self.features,
            training=self.training,
            seed=self.card["seed"],
            known=KnownPrice.model_validate(known) if known else None,
            jumps=(params or {}).get("jumps", "refuse"),
            recalibration=Recalibration.model_validate(self.card.get("recalibration", {})),
            now=datetime.now(UTC),
        )


mlflow.models.set_model(TickerForecaster())
