"""The report of one comparison: a self-contained HTML page with its pictures, Markdown and numbers."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tickerforge.evaluation.comparison.compare import select_windows
from tickerforge.evaluation.comparison.contamination import cut_off, split_title
from tickerforge.evaluation.core.config import EvaluationConfig
from tickerforge.evaluation.core.contracts import (
    AFTER,
    BASE,
    RANDOM_WALK,
    SCORED_SPLITS,
    EvalReport,
    ScoredSplit,
    Verdict,
)
from tickerforge.evaluation.core.labels import METRICS, MODEL_DEFINITIONS, model_label
from tickerforge.evaluation.core.panels import Answers, Truth, answers_of, judged_part, session_calendar, truth_of
from tickerforge.evaluation.report.files import FIGURES_FOLDER, MARKDOWN_FILE, NUMBERS_FILE, REPORT_FILE
from tickerforge.evaluation.report.forecast_plots import forecast_panels, price_series
from tickerforge.evaluation.report.score_plots import (
    calibration_plot,
    capital_curves,
    crps_by_horizon,
    has_curves,
    learning_curves,
    skill_bars,
    ticker_plot,
)
from tickerforge.evaluation.report.tables import (
    ACCOUNT_COLUMNS,
    DISTRIBUTION,
    METRIC_COLUMNS,
    POINT,
    RULE_DEFINITIONS,
    RULE_LABELS,
    account_rows,
    columns_of,
    common_currency,
    quality_heading,
    quality_rows,
    ticker_rows,
    written_rows,
)
from tickerforge.evaluation.report.theme import DARK_FILTER, INK, PAPER
from tickerforge.evaluation.report.thoughts import Thoughts, thoughts_of_windows
from tickerforge.evaluation.report.wording import (
    allowed_claim,
    evidence,
    picture_words,
    pooling,
    split_words,
    trading_by_ticker,
    trading_rules,
)
from tickerforge.features.atomic import write_atomically
from tickerforge.features.prices.quality import QualityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "report.html.j2"
_COLOURS = 256
_PICTURE_ID, _PNG = "picture-", "data:image/png;base64,"
"""The id of a picture in the page, before its name, and what its data begin with."""
_FOLDED = ("series", "training", "trading")
"""The pictures that the page shows on demand, after the figures."""
THOUGHTS_NOTE = (
    "The model's own words, before the answers nearest to the median, for some test windows. They "
    "may be wrong, and need not be the cause of the forecast."
)


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    html: Path
    markdown: Path
    metrics: Path


@dataclass(frozen=True)
class Picture:
    """One figure: its file name without suffix, a heading that states the finding, and what it shows in words."""

    name: str
    heading: str
    text: str
    draw: Callable[[], "Figure"]


def write_report(
    report: EvalReport,
    verdict: Verdict,
    *,
    windows: pd.DataFrame,
    forecasts: pd.DataFrame,
    training_metrics: pd.DataFrame | None,
    out_dir: Path,
    config: EvaluationConfig,
    provenance: Mapping[str, str] | None = None,
    quality: Sequence[QualityReport] = (),
) -> ReportPaths:
    """Write `report.html`, `report.md` and `metrics.parquet`; each file is complete or absent.

    Each picture is drawn once, and only the page holds it: `write_figures` takes the PNG files out of the page. On dark
    screens the page shows them through a colour filter.

    Args:
        report: From `evaluation.comparison.compare.compare`.
        verdict: From `evaluation.comparison.gate.decide`.
        windows: The windows frame of the report.
        forecasts: The forecasts frame of the report.
        training_metrics: Columns `stage step reward valid_rate loss`, in the order of the stages; `None` or empty if
            nothing was trained.
        out_dir: Folder for the files; created if missing.
        config: The configuration of the report; without `config.pictures` there are no figures.
        provenance: What was run, by label: data, versions, seeds, command.
        quality: The quality of each ticker's prices.

    Raises:
        ForecastsError: `forecasts` do not fit `windows` under `config`.
        OSError: The files cannot be written.
    """
    currency = common_currency(quality)
    pictures = pictures_of(
        report, windows, forecasts, training_metrics=training_metrics, config=config, currency=currency
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    images = draw_pictures(pictures)
    thoughts = thoughts_of(report, windows, forecasts, config=config)
    paths = ReportPaths(html=out_dir / REPORT_FILE, markdown=out_dir / MARKDOWN_FILE, metrics=out_dir / NUMBERS_FILE)
    write_atomically(paths.metrics, report.metrics_frame().to_parquet(index=False))
    texts: dict[str, Any] = {
        "pictures": pictures,
        "thoughts": thoughts,
        "provenance": provenance or {},
        "quality": quality,
    }
    write_atomically(paths.markdown, render_markdown(report, verdict, **texts).encode())
    page = _render_html(report, verdict, images=images, **texts)
    write_atomically(paths.html, page.encode())
    return paths


def write_figures(folder: Path) -> list[Path]:
    """Write the pictures of the page in a report's folder as `figures/*.png`, which its Markdown links to.

    Raises:
        OSError: If the page cannot be read or a file cannot be written.
    """
    figures = folder / FIGURES_FOLDER
    written = []
    for name, image in _Embedded((folder / REPORT_FILE).read_text(encoding="utf-8")).images.items():
        figures.mkdir(exist_ok=True)
        written.append(figures / f"{name}.png")
        write_atomically(written[-1], base64.b64decode(image))
    return written


class _Embedded(HTMLParser):
    """The pictures in a page: base64 by name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.images: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name, data = values.get("id") or "", values.get("src") or ""
        if tag == "img" and name.startswith(_PICTURE_ID) and data.startswith(_PNG):
            self.images[name.removeprefix(_PICTURE_ID)] = data.removeprefix(_PNG)


def pictures_of(
    report: EvalReport,
    windows: pd.DataFrame,
    forecasts: pd.DataFrame,
    *,
    training_metrics: pd.DataFrame | None,
    config: EvaluationConfig,
    currency: str = "",
) -> list[Picture]:
    """List the figures in reading order; forecasts drawn are those of the chosen adapter, else of the base model.

    The best free forecaster is drawn beside them. A pool has no single series of prices to draw them along. The axes of
    prices name the currency, if it is known.
    """
    free = report.free or RANDOM_WALK
    model, truth = _shown_model(report), _test_windows(windows, config=config)
    answers = [answers_of(forecasts, model=name, truth=truth) for name in dict.fromkeys((model, free))]
    if not config.pictures:
        return []
    drawn, given = judged_part(truth, answers, cut_off=report.test_after)
    interval = report.interval

    def beside(found: Sequence[Answers]) -> Answers | None:
        return found[1] if len(found) > 1 else None

    draws: dict[str, Callable[[], Figure]] = {
        "forecasts": lambda: forecast_panels(
            windows, drawn, given[0], free=beside(given), interval=interval, count=config.examples, currency=currency
        ),
        "skill": lambda: skill_bars(report),
        "horizon": lambda: crps_by_horizon(report),
    }
    if report.tickers:
        draws["tickers"] = lambda: ticker_plot(report, model=model, split="test")
    if any((each.model, each.split) == (model, "test") for each in report.calibration):
        draws["calibration"] = lambda: calibration_plot(report, model=model, split="test")
    if not report.tickers:
        draws["series"] = lambda: price_series(
            windows, truth, answers[0], free=beside(answers), interval=interval, currency=currency
        )
    if training_metrics is not None and has_curves(training_metrics):
        curves = training_metrics
        draws["training"] = lambda: learning_curves(curves, ticker=report.ticker)
    if report.backtest is not None:
        draws["trading"] = lambda: capital_curves(report, model=model)
    words = picture_words(report, model=model, free=free if free != model else None)
    return [Picture(name, *words[name], draw) for name, draw in draws.items()]


def thoughts_of(
    report: EvalReport, windows: pd.DataFrame, forecasts: pd.DataFrame, *, config: EvaluationConfig
) -> Sequence[Thoughts]:
    """List what the model that is drawn wrote for the windows that are drawn."""
    truth, _ = judged_part(_test_windows(windows, config=config), [], cut_off=report.test_after)
    return thoughts_of_windows(forecasts, model=_shown_model(report), truth=truth, count=config.examples)


def _shown_model(report: EvalReport) -> str:
    return report.chosen or (BASE if BASE in report.models else report.free or RANDOM_WALK)


def _test_windows(windows: pd.DataFrame, *, config: EvaluationConfig) -> Truth:
    return truth_of(select_windows(windows, config=config), split="test", calendar=session_calendar(windows))


def draw_pictures(pictures: Sequence[Picture]) -> dict[str, bytes]:
    """Draw every picture as a PNG file, by name.

    A palette of 256 colours takes a third of the space and changes no colour visibly.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    images = {}
    for picture in pictures:
        # `savefig` would lay out the figure twice, for the same bytes.
        canvas = FigureCanvasAgg(picture.draw())
        canvas.draw()
        drawn = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
        buffer = io.BytesIO()
        drawn.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG")
        images[picture.name] = buffer.getvalue()
    return images


def render_markdown(
    report: EvalReport,
    verdict: Verdict,
    *,
    pictures: Sequence[Picture] = (),
    thoughts: Sequence[Thoughts] = (),
    provenance: Mapping[str, str] | None = None,
    quality: Sequence[QualityReport] = (),
) -> str:
    """Write the report as Markdown; pictures are linked as `figures/NAME.png`."""
    marks = {True: "✓", False: "✗"}
    lines = [f"# {report.ticker}: {'promoted' if verdict.promoted else 'not promoted'}", "", verdict.headline, ""]
    lines += [line for text in _opening(report) for line in (text, "")]
    lines += [f"- {marks[reason.passed]} {reason.text}" for reason in verdict.reasons]
    lines += _markdown_pictures([picture for picture in pictures if picture.name not in _FOLDED])
    for split in _tables(report):
        lines += ["", f"## {split_title(report, split)}: distributions", "", split_words(report, split), ""]
        lines += _markdown_table(report, split, columns=columns_of(DISTRIBUTION))
        lines += ["", f"## {split_title(report, split)}: point forecasts", ""]
        lines += _markdown_table(report, split, columns=columns_of(POINT))
    lines += _markdown_pictures([picture for picture in pictures if picture.name in _FOLDED])
    lines += _markdown_thoughts(report, thoughts)
    lines += _markdown_backtest(report)
    for split in _tables(report):
        if rows := ticker_rows(report, split):
            lines += ["", f"## {split_title(report, split)}, ticker by ticker", "", *_markdown_rows(rows)]
    if quality:
        words = 1 if len(quality) > 1 else 3
        lines += [
            "",
            f"## {quality_heading(quality)}",
            "",
            *_markdown_rows(quality_rows(quality), words=words),
        ]
    lines += ["", "## How to read this", ""]
    lines += [f"- **{model_label(model)}**: {MODEL_DEFINITIONS[model]}." for model in report.models]
    lines += [f"- **{METRICS[column].header}**: {METRICS[column].definition}" for column in METRIC_COLUMNS]
    lines += [f"- **{name}**: {definition}" for name, definition in _trading_terms(report)]
    lines += [f"- {note}" for note in report.notes]
    if provenance:
        lines += ["", "## What was run", "", *(f"- {label}: `{value}`" for label, value in provenance.items())]
    return "\n".join(lines) + "\n"


def _opening(report: EvalReport) -> list[str]:
    """List the sentences below the verdict."""
    return [text for text in (evidence(report), allowed_claim(report), pooling(report), cut_off(report)) if text]


def _tables(report: EvalReport) -> list[ScoredSplit]:
    """List the splits in reading order: the one that decides first."""
    after: list[ScoredSplit] = [AFTER] if report.judged == AFTER else []
    return [*after, *reversed(SCORED_SPLITS)]


def _trading_terms(report: EvalReport) -> list[tuple[str, str]]:
    """List trading rules and figures of the backtest with their definitions."""
    if report.backtest is None:
        return []
    rules = dict.fromkeys(account.rule for account in report.backtest.accounts)
    terms = [(RULE_LABELS[rule], f"{RULE_DEFINITIONS[rule]}.") for rule in rules]
    return terms + [(column.header, column.definition) for column in ACCOUNT_COLUMNS.values()]


def _markdown_pictures(pictures: Sequence[Picture]) -> list[str]:
    lines = []
    for picture in pictures:
        link = f"![{picture.heading}](figures/{picture.name}.png)"
        lines += ["", f"## {picture.heading}", "", link, "", picture.text]
    return lines


def _markdown_thoughts(report: EvalReport, thoughts: Sequence[Thoughts]) -> list[str]:
    """List what a model wrote, as code, so that none of it is read as Markdown."""
    if not thoughts:
        return []
    lines = ["", f"## {_thoughts_heading(report)}", "", THOUGHTS_NOTE]
    for each in thoughts:
        lines += ["", f"### {each.window}"]
        for text in each.texts:
            # Two code blocks in a row would be one.
            lines += ["", "<!-- -->", "", *(f"    {line}" for line in text.splitlines())]
    return lines


def _thoughts_heading(report: EvalReport) -> str:
    return f"What {model_label(_shown_model(report))} wrote before its answers"


def _markdown_backtest(report: EvalReport) -> list[str]:
    rows = account_rows(report)
    if not rows:
        return []
    words = [text for text in (trading_rules(report), trading_by_ticker(report)) if text]
    opening = [line for text in words for line in (text, "")]
    return ["", "## Trading on the forecasts", "", *opening, *_markdown_rows(rows, words=2)]


def _markdown_rows(rows: Sequence[tuple[str, ...]], *, words: int = 1) -> list[str]:
    """Write a table; the first row is the head, and the first `words` columns hold text instead of figures."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|---|" + "---|" * (words - 1) + "---:|" * (len(rows[0]) - words), *lines[1:]]


def _markdown_table(report: EvalReport, split: ScoredSplit, *, columns: tuple[str, ...]) -> list[str]:
    lines = [
        "| Model | " + " | ".join(METRICS[column].header for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in written_rows(report, split, columns=columns):
        cells = [f"**{text}**" if best else text for text, best in row.cells]
        lines.append(f"| {row.label}{' (chosen)' if row.chosen else ''} | " + " | ".join(cells) + " |")
    return lines


def _render_html(
    report: EvalReport,
    verdict: Verdict,
    *,
    pictures: Sequence[Picture],
    images: Mapping[str, bytes],
    thoughts: Sequence[Thoughts],
    provenance: Mapping[str, str],
    quality: Sequence[QualityReport],
) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_keep_units_together
    )
    template = environment.from_string(
        files("tickerforge.evaluation.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        paper=PAPER,
        ink=INK,
        report=report,
        verdict=verdict,
        opening=_opening(report),
        tables=[
            (
                split_title(report, split),
                split_words(report, split),
                written_rows(report, split, columns=columns_of(DISTRIBUTION)),
                written_rows(report, split, columns=columns_of(POINT)),
                ticker_rows(report, split),
            )
            for split in _tables(report)
        ],
        trading=account_rows(report),
        trading_words=[text for text in (trading_rules(report), trading_by_ticker(report)) if text],
        trading_terms=_trading_terms(report),
        distribution=DISTRIBUTION,
        point=POINT,
        columns=METRIC_COLUMNS,
        metrics=METRICS,
        models=[(model_label(model), MODEL_DEFINITIONS[model]) for model in report.models],
        pictures=[
            {
                "name": picture.name,
                "heading": picture.heading,
                "text": picture.text,
                "image": base64.b64encode(images[picture.name]).decode(),
            }
            for picture in pictures
        ],
        folded=_FOLDED,
        thoughts=thoughts,
        thoughts_heading=_thoughts_heading(report),
        thoughts_note=THOUGHTS_NOTE,
        picture_id=_PICTURE_ID,
        png=_PNG,
        dark_filter=" ".join(f"{red} {green} {blue} 0 {shift}" for red, green, blue, shift in DARK_FILTER),
        quality=quality_rows(quality),
        several=len(quality) > 1,
        quality_heading=quality_heading(quality),
        provenance=provenance,
    )


def _keep_units_together(value: object) -> object:
    """Prevent a line break between a figure and its percent sign."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if isinstance(value, str) else value
