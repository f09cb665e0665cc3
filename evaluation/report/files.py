"""The names of a report's files; imports nothing, so that commands start fast."""

REPORT_FILE, MARKDOWN_FILE, NUMBERS_FILE = "report.html", "report.md", "metrics.parquet"
FIGURES_FOLDER = "figures"
