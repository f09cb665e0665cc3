"""The server of `tickerforge serve`: forecasts as JSON, and the desk at `/`."""

import threading
import time
from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from tickerforge.evaluation.report.desk import DeskRow
from tickerforge.features.prices.tickers import spelled
from tickerforge.flows.night.next_sessions import Forecast, forecast_issued, forecast_stock
from tickerforge.flows.server.outcome import BAD_INPUT, exit_code, message
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.scope import with_stock
from tickerforge.tasks.base.errors import MarketDataError, NotRegistered, TrackingError
from tickerforge.tasks.outputs.desk import desk_page, read_rows

_PAGE_SECONDS = 30.0


def forecasts_app(config: PipelineConfig) -> FastAPI:
    """Return the app, without a check of who asks: see `tasks.base.gate.Gate`.

    Args:
        config: Data and backend, as for `tickerforge forecast`.
    """
    # The pages of FastAPI's own documentation would load scripts from another address.
    app = FastAPI(
        title="TickerForge",
        description="Forecasts of the next sessions. Prices are adjusted closes in the currency of their source.",
        docs_url=None,
        redoc_url=None,
    )
    # A model uses all cores anyway.
    one_at_a_time = threading.Lock()
    page = _Page()

    @app.get("/", response_class=HTMLResponse, summary="The desk: one page over all tickers")
    def desk() -> HTMLResponse:
        return HTMLResponse(page.text(), headers={"cache-control": "no-store"})

    @app.get("/forecasts", summary="The latest issued forecasts of all tickers, as the desk shows them")
    def forecasts() -> list[DeskRow]:
        return read_rows()

    @app.get("/forecast/{stock}", summary="A forecast of the next sessions, made now and not recorded")
    def forecast(
        stock: str,
        alias: Annotated[
            str | None,
            Query(description="Alias or version of the adapter; by default the champion, or the best free forecast."),
        ] = None,
        as_of: Annotated[date | None, Query(description="Last day whose prices may be used.")] = None,
    ) -> Forecast:
        own = with_stock(config, spelled(stock))
        with one_at_a_time:
            if alias is None:
                return forecast_issued(own, as_of=as_of)[0]
            return forecast_stock(own, adapter=None, alias=alias, as_of=as_of)

    app.add_exception_handler(Exception, _in_words)
    app.add_exception_handler(RequestValidationError, _bad_query)
    # Starlette passes an exception to the handler of `Exception` and raises it again, for the log; ours are expected.
    for kind in (ValueError, RuntimeError, OSError):
        app.add_exception_handler(kind, _in_words)
    return app


class _Page:
    """The desk's page, rendered at most once in `_PAGE_SECONDS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""
        self._made: float | None = None

    def text(self) -> str:
        with self._lock:
            if self._made is None or time.monotonic() - self._made > _PAGE_SECONDS:
                self._text = desk_page(read_rows(), at=datetime.now(UTC))
                self._made = time.monotonic()
            return self._text


def _in_words(request: Request, error: Exception) -> JSONResponse:
    """Answer with the words of the command line: 404 for what is not there, 400 for other bad input."""
    status = 500
    if isinstance(error, NotRegistered):
        status = 404
    elif isinstance(error, TrackingError):
        status = 503
    elif exit_code(error) == BAD_INPUT or isinstance(error, ValueError):
        # The prices of a stock may be there, but not those of the day.
        status = 404 if isinstance(error, MarketDataError) and "as_of" not in request.query_params else 400
    return JSONResponse({"detail": message(error)}, status_code=status)


def _bad_query(_: Request, error: Exception) -> JSONResponse:
    faults: list[Any] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    wanted = {"as_of": "must be a date, YYYY-MM-DD"}
    detail = "; ".join(
        f"{(name := each['loc'][-1])} = {each.get('input')!r}: {wanted.get(name, each['msg'])}" for each in faults
    )
    return JSONResponse({"detail": detail}, status_code=422)
