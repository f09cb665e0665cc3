"""The tables and links that the Prefect UI shows of a run."""

import re

from tickerforge.evaluation.comparison.contamination import decisive, split_name
from tickerforge.evaluation.core.contracts import EvalReport, Verdict
from tickerforge.evaluation.core.labels import METRICS
from tickerforge.evaluation.report.tables import METRIC_COLUMNS, written_rows
from tickerforge.tasks.base.retries import patiently


def artifact_key(*parts: str) -> str:
    """Join parts to a key that Prefect accepts: lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def comparison_rows(report: EvalReport) -> list[dict[str, str]]:
    """Return the table of the deciding split: one row per model, the chosen one marked, figures as text."""
    rows = []
    for row in written_rows(report, decisive(report)):
        figures = {METRICS[column].header: text for column, (text, _) in zip(METRIC_COLUMNS, row.cells, strict=True)}
        rows.append({"Model": f"{row.label} (chosen)" if row.chosen else row.label} | figures)
    return rows


def publish_comparison(report: EvalReport, verdict: Verdict, *, address: str) -> None:
    """Create the table artifact `comparison-{ticker}` and the link artifact `report-{ticker}` of the current run."""
    from prefect.artifacts import create_table_artifact

    reasons = "\n".join(f"- {'✓' if reason.passed else '✗'} {reason.text}" for reason in verdict.reasons)
    patiently(
        lambda: create_table_artifact(
            table=comparison_rows(report),
            key=artifact_key("comparison", report.ticker),
            description=f"**{verdict.headline}** ({split_name(report, decisive(report))})\n\n{reasons}",
        )
    )
    publish_link(f"report-{report.ticker}", address, text=f"Report of {report.ticker}", description=verdict.headline)


def publish_table(key: str, rows: list[dict[str, str]], *, description: str) -> None:
    """Create a table artifact of the current run."""
    from prefect.artifacts import create_table_artifact

    patiently(lambda: create_table_artifact(table=rows, key=artifact_key(key), description=description))


def publish_link(key: str, address: str, *, text: str, description: str) -> None:
    """Create a link artifact of the current run."""
    from prefect.artifacts import create_link_artifact

    patiently(
        lambda: create_link_artifact(link=address, link_text=text, key=artifact_key(key), description=description)
    )


def publish_markdown(key: str, text: str, *, description: str) -> None:
    """Create a Markdown artifact of the current run."""
    from prefect.artifacts import create_markdown_artifact

    patiently(lambda: create_markdown_artifact(markdown=text, key=artifact_key(key), description=description))


def plain(text: str) -> str:
    """Escape what Markdown and HTML would read as marks, for texts that come from files and models."""
    return re.sub(r"([\\\\`*_{}\[\]<>#|!~&])", r"\\\1", " ".join(text.split()))
