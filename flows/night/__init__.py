"""The nightly run and the daily forecast of many tickers."""
