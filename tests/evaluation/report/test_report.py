"""The report: complete, self-contained, honest about refusals, and safe to write."""

import base64
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation_frames import ALL_MODELS, forecasts_of, market_windows
from tickerforge.evaluation.comparison.compare import compare
from tickerforge.evaluation.comparison.gate import decide
from tickerforge.evaluation.core.config import EvaluationConfig, GateConfig
from tickerforge.evaluation.core.contracts import BASELINES, EvalReport, Verdict
from tickerforge.evaluation.core.errors import ForecastsError
from tickerforge.evaluation.core.labels import METRICS
from tickerforge.evaluation.report.report import ReportPaths, render_markdown, write_figures, write_report
from tickerforge.evaluation.report.tables import (
    DISTRIBUTION,
    METRIC_COLUMNS,
    POINT,
    account_rows,
    best_models,
    columns_of,
    comparison_table,
    quality_heading,
    written_rows,
)
from tickerforge.evaluation.report.theme import DARK_FILTER
from tickerforge.features.config import SyntheticConfig
from tickerforge.features.prices.bars import adjust
from tickerforge.features.prices.quality import assess
from tickerforge.features.synthetic import market

CONFIG = EvaluationConfig(examples=2)
Case = tuple[EvalReport, Verdict, pd.DataFrame, pd.DataFrame]


def training_metrics() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    stages = [
        pd.DataFrame({"stage": "grpo_1st", "step": range(1, 9), "reward": rng.normal(size=8), "valid_rate": 0.99}),
        pd.DataFrame({"stage": "sft_data", "step": [1], "valid_rate": [0.98]}),
        pd.DataFrame({"stage": "sft", "step": range(1, 6), "loss": rng.random(5)}),
    ]
    return pd.concat(stages, ignore_index=True)


@pytest.fixture(scope="module")
def case() -> Case:
    windows, train = market_windows()
    knowledge = dict(zip(ALL_MODELS, (-0.1, 0.0, 0.04, 0.03), strict=True))
    forecasts = forecasts_of(windows, train, knowledge=knowledge)
    report = compare(windows, forecasts, config=CONFIG)
    return report, decide(report, GateConfig(min_skill=0.5)), windows, forecasts


@pytest.fixture(scope="module")
def written(case: Case, tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    report, verdict, windows, forecasts = case
    return write_report(
        report,
        verdict,
        windows=windows,
        forecasts=forecasts,
        training_metrics=training_metrics(),
        out_dir=tmp_path_factory.mktemp("report") / "model_comparison",
        config=CONFIG,
        provenance={"Command": "tickerforge run --stock <DEMO>"},
    )


class _Page(HTMLParser):
    """The links of a page, the texts of its pictures, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name in ("src", "href", "srcset") if (value := values.get(name))]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_no_network_and_every_picture_has_a_text(written: ReportPaths) -> None:
    text = written.html.read_text()
    page = _Page(text)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http" not in text
    assert len(page.alternatives) == 6
    assert all(len(alternative) > 60 for alternative in page.alternatives)


def test_the_page_holds_each_picture_once_and_filters_it_on_dark_screens_only(written: ReportPaths) -> None:
    text = written.html.read_text()
    assert len(set(_Page(text).links)) == len(_Page(text).links) == 6
    dark = text[text.index("@media screen and (prefers-color-scheme: dark)") : text.index("* { box-sizing")]
    assert "figure img { filter: url(#dark); }" in dark
    assert text.count("filter: url(#dark)") == 1
    (values,) = re.findall(r'<filter id="dark" [^>]*><feColorMatrix values="([^"]+)"/>', text)
    matrix = np.array(values.split(), dtype=float).reshape(4, 5)
    np.testing.assert_array_equal(matrix[:3, [0, 1, 2, 4]], DARK_FILTER)
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1, 0])


def test_without_pictures_the_report_says_the_same_and_has_no_figures(case: Case, tmp_path: Path) -> None:
    report, verdict, windows, forecasts = case
    paths = write_report(
        report,
        verdict,
        windows=windows,
        forecasts=forecasts,
        training_metrics=training_metrics(),
        out_dir=tmp_path,
        config=CONFIG.model_copy(update={"pictures": False}),
    )
    assert write_figures(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.parquet", "report.html", "report.md"]
    page = _Page(paths.html.read_text())
    assert page.links == page.alternatives == []
    words = " ".join("".join(page.words).replace("\N{NO-BREAK SPACE}", " ").split())
    assert verdict.headline in words
    assert all(reason.text in words for reason in verdict.reasons)
    assert paths.markdown.read_text() == render_markdown(report, verdict)


def test_the_page_says_the_refusal_first_and_every_reason(case: Case, written: ReportPaths) -> None:
    verdict = case[1]
    words = " ".join("".join(_Page(written.html.read_text()).words).replace("\N{NO-BREAK SPACE}", " ").split())
    assert not verdict.promoted
    assert words.index(verdict.headline) < words.index("Test split")
    for reason in verdict.reasons:
        assert reason.text in words
    for name in ("Persistence", "Drift", "Mean of window", "Base model", "First GRPO", "SFT", "Second GRPO"):
        assert name in words
    assert "tickerforge run --stock <DEMO>" in words


def test_the_forecasts_stand_next_to_the_verdict_and_the_prices_before_what_was_run(written: ReportPaths) -> None:
    parts = ["Single windows of test", "CRPS skill against the random walk on validation", "tenth of", "Test split"]
    parts += ["Validation split", "Training, step by step", "How to read this", "What was run"]
    for text in (written.html.read_text(), written.markdown.read_text()):
        places = [text.index(part) for part in parts]
        assert places == sorted(places)


def test_what_there_is_to_say_about_the_prices_is_a_table_with_the_finding_as_its_heading(
    case: Case, tmp_path: Path
) -> None:
    report, verdict, *_ = case
    bars = market(SyntheticConfig(process="random_walk", sessions=600, seed=3))
    quality = assess(bars, ticker="DEMO", repairs={"blank_rows": 2, "halts": 2}, currency="SEK", note="-")
    text = render_markdown(report, verdict, quality=[quality])
    assert "## Data quality: 600 sessions of prices, missing sessions not known, 2 repaired rows and another" in text
    assert "| blank rows | 2 | " in text
    assert "| currency | SEK | " in text
    assert "| calendar | not compared | - |" in text
    assert "Data quality" not in render_markdown(report, verdict)
    clean = assess(bars, ticker="DEMO", repairs={}, exchange="XNYS", sessions=bars["date"].to_numpy())
    assert quality_heading([clean]).endswith("none missing, nothing repaired and nothing odd")
    alone = quality.model_copy(update={"repairs": {}})
    assert quality_heading([alone]).endswith("missing sessions not known, nothing repaired and nothing odd")
    assert "missing sessions not known for some tickers" in quality_heading([clean, alone])


def test_the_folder_has_no_pictures_beside_the_page_which_holds_them(written: ReportPaths) -> None:
    assert {path.name for path in written.html.parent.iterdir()} == {"report.html", "report.md", "metrics.parquet"}


def test_the_pictures_of_the_page_are_small_files_if_one_wants_them(written: ReportPaths, tmp_path: Path) -> None:
    shutil.copy(written.html, tmp_path)
    figures = write_figures(tmp_path)
    names = ["skill", "forecasts", "series", "horizon", "calibration", "training"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in figures) == sorted(
        f"figures/{n}.png" for n in names
    )
    images = [link.removeprefix("data:image/png;base64,") for link in _Page(written.html.read_text()).links]
    assert [path.read_bytes() for path in figures] == [base64.b64decode(image) for image in images]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert all(4_000 < path.stat().st_size < 80_000 for path in figures)


def test_the_numbers_on_disk_are_the_report(case: Case, written: ReportPaths) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(written.metrics), case[0].metrics_frame())


def test_the_markdown_has_both_tables_and_links_existing_figures(
    case: Case, written: ReportPaths, tmp_path: Path
) -> None:
    text = written.markdown.read_text()
    assert text.startswith("# DEMO: not promoted\n")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(links) == 6
    shutil.copy(written.html, tmp_path)
    assert {tmp_path / link for link in links} == set(write_figures(tmp_path))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 * (1 + len(case[0].models))
    widths = {len(columns_of(groups)) + 2 for groups in (DISTRIBUTION, POINT)}
    assert {line.count("|") for line in rows} == widths
    assert sum("(chosen)" in line for line in rows) == 4


def test_a_backtest_is_a_table_and_a_picture_that_states_its_finding(case: Case, tmp_path: Path) -> None:
    _, _, windows, forecasts = case
    opens = adjust(market(SyntheticConfig(process="random_walk", sessions=600, seed=3)))[["date", "open"]]
    report = compare(windows, forecasts, config=CONFIG, opens=opens.assign(ticker="DEMO"))
    verdict = decide(report, GateConfig())
    paths = write_report(
        report,
        verdict,
        windows=windows,
        forecasts=forecasts,
        training_metrics=None,
        out_dir=tmp_path,
        config=CONFIG,
    )
    text = paths.markdown.read_text()
    section = text[text.index("## Trading on the forecasts") :]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert sum(row.startswith("| Long or flat |") for row in rows) == len(report.models)
    persistence = next(row for row in rows if row.startswith("| Long or short | Persistence"))
    assert persistence == "| Long or short | Persistence | 0.0 % | 0.0 % | – | – | 0.0 % | 0.0 | 0 % | – |"
    assert (
        "Every purchase and every sale costs 10 basis points. Persistence forecasts no move and so never trades" in text
    )
    assert re.search(
        r"## Long or short by SFT returned [+−][\d.,]+ % per year after costs, by drift .*, holding ", text
    )
    assert tmp_path / "figures" / "trading.png" in write_figures(tmp_path)
    words = " ".join(_Page(paths.html.read_text()).words)
    for row in account_rows(report):
        assert row[0] in words
    assert len(_Page(paths.html.read_text()).alternatives) == 6


def test_without_training_there_are_no_curves_and_a_failed_rewrite_leaves_the_page(case: Case, tmp_path: Path) -> None:
    report, verdict, windows, forecasts = case

    def write(given: pd.DataFrame) -> ReportPaths:
        return write_report(
            report,
            verdict,
            windows=windows,
            forecasts=given,
            training_metrics=None,
            out_dir=tmp_path,
            config=CONFIG,
        )

    page = write(forecasts).html.read_text()
    assert tmp_path / "figures" / "training.png" not in write_figures(tmp_path)
    assert "step by step" not in page
    with pytest.raises(ForecastsError, match="no forecast"):
        write(forecasts[forecasts["model"] != report.chosen])
    assert (tmp_path / "report.html").read_text() == page
    assert not list(tmp_path.rglob("*.partial"))


def test_the_comparison_table_is_in_display_order_with_persistence_and_drift_first(case: Case) -> None:
    table = comparison_table(case[0], "test")
    assert list(table.index) == [*BASELINES, "base", "grpo_1st", "sft", "grpo_2nd"]
    assert tuple(table.columns) == METRIC_COLUMNS
    assert table.at["persistence", "skill"] == 0.0
    assert np.isnan(table.at["persistence", "p_value"])


def test_the_best_figure_of_a_column_is_marked_and_a_tie_marks_all() -> None:
    table = pd.DataFrame(
        {"skill": [0.0, 0.1, 0.1], "mse": [0.2, 0.3, np.nan], "p_value": [np.nan, 0.2, 0.1], "crps": [np.nan] * 3},
        index=["persistence", "sft", "grpo_2nd"],
    )
    assert best_models(table) == {
        "skill": {"sft", "grpo_2nd"},
        "mse": {"persistence"},
        "p_value": frozenset(),
        "crps": frozenset(),
    }


def test_figures_are_written_as_readers_expect_them() -> None:
    assert METRICS["skill"].write(0.0312) == "+3.1 %"
    assert METRICS["skill"].write(-0.0312) == "−3.1 %"
    assert METRICS["skill"].write(-0.0001) == "0.0 %"
    assert METRICS["mse"].write(0.063149) == "0.0631"
    assert METRICS["rmse_usd"].write(4640.943) == "4,640.94"
    assert METRICS["p_value"].write(0.0004) == "< 0.001"
    assert METRICS["valid_rate"].write(None) == METRICS["valid_rate"].write(float("nan")) == "–"


def test_the_markdown_of_a_report_without_pictures_stands_alone(case: Case) -> None:
    report, verdict, *_ = case
    text = render_markdown(report, verdict)
    assert "![" not in text
    assert verdict.headline in text
    assert [row.model for row in written_rows(report, "test") if row.chosen] == ["sft"]


def test_a_report_of_older_code_still_loads_and_prints_without_the_newer_figures(case: Case) -> None:
    report, verdict, *_ = case
    saved = report.model_dump(mode="json")
    for name in ("calibration",):
        del saved[name]
    newer = {"mase", "mcc", "rank_ic", "pinball", "width", "coverage_50", "coverage_80", "coverage_95"}
    saved["metrics"] = [row for row in saved["metrics"] if row["metric"] not in newer]
    older = EvalReport.model_validate(saved)
    assert older.calibration == ()
    assert "MASE" in render_markdown(older, verdict)


def test_what_the_model_wrote_is_folded_marked_as_its_words_and_never_code(case: Case, tmp_path: Path) -> None:
    report, verdict, windows, forecasts = case
    hostile = "It fell.</blockquote><script>alert(1)</script>\n# Heading"
    written = [[hostile] * count if model == report.chosen else None for model, count in said(forecasts)]
    with_words = forecasts.assign(thoughts=pd.Series(written, index=forecasts.index, dtype=object))
    arguments = {"windows": windows, "training_metrics": None, "config": CONFIG.model_copy(update={"pictures": False})}
    paths = write_report(report, verdict, forecasts=with_words, out_dir=tmp_path / "words", **arguments)
    page = paths.html.read_text()
    folded = re.findall(
        r"<details>\n<summary>What SFT wrote before its answers</summary>(.*?)</details>", page, re.DOTALL
    )
    assert len(folded) == 1
    assert "The model's own words" in html.unescape(folded[0])
    assert folded[0].count('<blockquote class="model">It fell.&lt;/blockquote&gt;&lt;script&gt;') == CONFIG.examples
    assert "<script" not in page
    lines = paths.markdown.read_text().splitlines()
    assert lines.count("    # Heading") == CONFIG.examples
    assert "# Heading" not in lines

    nothing = forecasts.assign(thoughts=[[""] * count for _, count in said(forecasts)])
    for each in (forecasts, nothing):
        paths = write_report(report, verdict, forecasts=each, out_dir=tmp_path / "none", **arguments)
        assert "wrote before its answers" not in paths.html.read_text() + paths.markdown.read_text()


def said(forecasts: pd.DataFrame) -> list[tuple[str, int]]:
    """The model and the number of valid answers of each forecast."""
    return list(zip(forecasts["model"], forecasts["n_valid"], strict=True))
