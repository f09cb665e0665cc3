"""The benchmark on known markets, run for real on a tiny pipeline."""

from pathlib import Path

import pytest

import tickerforge.flows.bench.markets
import tickerforge.tasks.outputs.benchmark
from tickerforge.evaluation.core.contracts import FREE
from tickerforge.flows.bench.market_config import MARKETS, SETTINGS, TINY_SETTINGS, benchmark_config, market_config
from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.tasks.base.paths import Workspace
from tickerforge.training.config import SFTStageConfig, TrainingConfig
from tickerforge.training.errors import TrainingDiverged
from tiny_pipeline import tiny_config
from trained_pieces import lend_base_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated:DeprecationWarning"),
]


def test_a_market_is_another_for_every_seed_and_stretch_and_the_same_for_the_same() -> None:
    def seed(**options: int) -> int:
        return market_config(tiny_config(), market="momentum-40", sessions=500, **options).synthetic.seed

    assert len({seed(seed=0), seed(seed=1), seed(seed=2), seed(seed=0, shift=7)}) == 4
    assert seed(seed=1) == seed(seed=1)
    own = market_config(tiny_config(), market="mean-reverting-95", seed=1, sessions=500)
    assert (own.stock, own.synthetic.ticker, own.data) == ("MEAN-REVERTING-95", "MEAN-REVERTING-95", None)
    assert (own.synthetic.process, own.synthetic.phi, own.synthetic.sessions) == ("mean_reverting", 0.95, 500)


def test_many_windows_are_learned_from_unless_a_recipe_or_a_setting_says_otherwise(tmp_path: Path) -> None:
    def training(*assignments: str, recipe: Path | None = None, model: str | None = None) -> TrainingConfig:
        return benchmark_config(recipe=recipe, model=model, assignments=assignments).training

    for name, value in (SETTINGS | TINY_SETTINGS).items():
        _, group, setting = name.split(".")
        assert getattr(getattr(training(), group), setting) == value
    assert training("training.sft.epochs=3").sft.epochs == 3
    assert training("training.sft.epochs=3").rejection.max_windows == SETTINGS["training.rejection.max_windows"]
    for other in (training(model="org/large"), training("training.model=org/large")):
        assert other.learning_rate("sft") == TrainingConfig(model="org/large").learning_rate("sft")
        assert other.sft.epochs == 2
    path = tmp_path / "own.toml"
    path.write_text("[training.sft]\nepochs = 3.0\n")
    assert training(recipe=path) == TrainingConfig(sft=SFTStageConfig(epochs=3.0))


@pytest.mark.slow
def test_every_stage_is_scored_beside_both_optima_and_what_is_done_is_not_done_again(
    prefect_server: None, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, sizes in (
        (tickerforge.flows.bench.markets, {"TRAIN_SESSIONS": 400, "FRESH_SESSIONS": 700, "FRESH_WINDOWS": 12}),
        (tickerforge.tasks.outputs.benchmark, {"FITTED_SESSIONS": 900, "SCORED_SESSIONS": 600}),
    ):
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)
    lend_base_model(Workspace.current().root)
    config = tiny_config()
    (run,) = tickerforge.flows.bench.markets.benchmark_markets(config, ("mean-reverting-80",), 1)
    assert [each.model for each in run.attained] == ["known", "shown", *FREE, "base", "grpo_1st", "sft", "grpo_2nd"]
    assert run.of("known").crps < run.of("random_walk").crps < 0.8
    assert run.captured_crps("random_walk") == 0.0
    assert run.of("shown").mse == pytest.approx(run.attainable.asked, abs=0.001)
    # Half of the windows that the market has, as the settings ask for no more.
    assert config.evaluation.max_windows == 6
    assert all(each.windows == 2 * 6 and 0 < each.valid_rate <= 1 for each in run.attained)
    assert 0.5 < run.optimum < 1
    assert 0.3 < run.attainable.general < 1.1
    assert run.headline

    (again,) = tickerforge.flows.bench.markets.benchmark_markets(config, ("mean-reverting-80",), 1)
    assert again == run
    rows = tickerforge.flows.bench.markets.summarise([run])["mean-reverting-80"]
    assert [row["Model"] for row in rows[5:]] == ["base", "grpo_1st", "sft", "grpo_2nd"]
    assert (rows[0]["Seeds"], rows[3]["Model"]) == ("0", "Random walk (HAR)")
    assert rows[5]["MSE, median"] == f"{run.of('base').mse:.3f}"

    (short,) = tickerforge.flows.bench.markets.benchmark_markets(config, ("mean-reverting-80",), 1, until="sft")
    assert short.attained == run.attained[:-1]
    assert short.seconds < run.seconds
    assert "MSE" in str(tickerforge.flows.bench.markets.summarise([short])["mean-reverting-80"][-1])

    def first_collapses(
        config: PipelineConfig, *, market: str, seed: int, until: str
    ) -> tickerforge.flows.bench.markets.MarketRun:
        if seed == 0:
            raise TrainingDiverged("stopped at step 7", last_good=None)
        return run

    monkeypatch.setattr(tickerforge.flows.bench.markets, "run_market", first_collapses)
    assert tickerforge.flows.bench.markets.benchmark_markets(config, ("mean-reverting-80",), 2) == (run,)
    with pytest.raises(TrainingDiverged, match="stopped at step 7"):
        tickerforge.flows.bench.markets.benchmark_markets(config, ("mean-reverting-80",), 1)


def test_a_market_that_is_not_there_is_refused_with_those_that_are(prefect_server: None) -> None:
    with pytest.raises(ValueError, match=rf"no market 'moon': there are {next(iter(MARKETS))}"):
        tickerforge.flows.bench.markets.benchmark_markets(tiny_config(), ("moon",), 1)
