"""One flow a stage: a single stage from its inputs' artifacts, or from explicit files."""

from collections.abc import Callable

from prefect import flow

from tickerforge.flows.settings.config import PipelineConfig
from tickerforge.flows.settings.files import StageFiles
from tickerforge.flows.stages.single import StageOutcome, copy_file, single_stage
from tickerforge.flows.train.steps import ADAPTER_STAGES
from tickerforge.tasks.outputs.evaluate import read_report, read_verdict
from tickerforge.tasks.outputs.publish import publish_comparison_folder, publish_sft_data, publish_stage
from tickerforge.tasks.tracking.stage_runs import log_comparison


@flow(name="stage-grpo1", flow_run_name="{config.stock}", persist_result=False)
def grpo1(config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """First GRPO, from a fresh adapter.

    Args:
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files instead of the usual ones.
    """
    with single_stage("grpo1", config, files) as inputs:
        artifact = inputs.run.steps.grpo_1st(inputs.windows, inputs.base_model)
        written = [publish_stage(artifact, inputs.run.folder), inputs.save_adapter("grpo_1st", artifact)]
        written += inputs.save_full_forecasts("grpo_1st", artifact)
        return inputs.outcome("grpo1", "grpo_1st", artifact, written)


@flow(name="stage-sft-data", flow_run_name="{config.stock}", persist_result=False)
def sft_data(config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """Rejection sampling: the best answers of the first adapter.

    Args:
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files instead of the usual ones.
    """
    with single_stage("sft-data", config, files) as inputs:
        artifact = inputs.run.steps.sft_data(inputs.windows, inputs.base_model, inputs.adapter("grpo_1st"))
        written = [publish_sft_data(artifact, inputs.run.folder, stock=config.stock)]
        if files.sft_data_path is not None:
            written.append(copy_file(written[0], files.sft_data_path))
        return inputs.outcome("sft-data", "sft_data", artifact, written)


@flow(name="stage-sft", flow_run_name="{config.stock}", persist_result=False)
def sft(config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """Supervised fine-tuning of a fresh adapter on the accepted answers.

    Args:
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files instead of the usual ones.
    """
    with single_stage("sft", config, files) as inputs:
        artifact = inputs.run.steps.sft(inputs.sft_data(), inputs.base_model)
        written = [publish_stage(artifact, inputs.run.folder), inputs.save_adapter("sft", artifact)]
        return inputs.outcome("sft", "sft", artifact, written)


@flow(name="stage-grpo2", flow_run_name="{config.stock}", persist_result=False)
def grpo2(config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """Second GRPO, going on from the fine-tuned adapter.

    Args:
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files instead of the usual ones.
    """
    with single_stage("grpo2", config, files) as inputs:
        artifact = inputs.run.steps.grpo_2nd(inputs.windows, inputs.base_model, inputs.adapter("sft"))
        written = [publish_stage(artifact, inputs.run.folder), inputs.save_adapter("grpo_2nd", artifact)]
        written += inputs.save_full_forecasts("grpo_2nd", artifact)
        return inputs.outcome("grpo2", "grpo_2nd", artifact, written)


@flow(name="stage-compare", flow_run_name="{config.stock}", persist_result=False)
def compare(config: PipelineConfig, files: StageFiles = StageFiles()) -> StageOutcome:
    """Score the base model and the three adapters against the baselines, and judge the best; registers nothing.

    Args:
        config: Stock, data and settings, as for the whole pipeline.
        files: Explicit files instead of the usual ones.
    """
    with single_stage("compare", config, files) as inputs:
        adapters = {stage: inputs.adapter(stage) for stage in ADAPTER_STAGES}
        comparison = inputs.run.steps.comparison(inputs.windows, inputs.base_model, adapters, bars=inputs.bars)
        report, verdict = read_report(comparison), read_verdict(comparison)
        written = publish_comparison_folder(comparison, inputs.run.folder)
        if inputs.run.mlflow is not None:
            log_comparison(inputs.run.mlflow, comparison)
        return StageOutcome(
            stage="compare",
            stock=config.stock,
            results=inputs.run.folder.root,
            written=(written,),
            report=report,
            verdict=verdict,
        )


FLOWS: dict[str, Callable[[PipelineConfig, StageFiles], StageOutcome]] = {
    "grpo1": grpo1,
    "sft-data": sft_data,
    "sft": sft,
    "grpo2": grpo2,
    "compare": compare,
}
