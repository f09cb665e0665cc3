"""A program that trains the tiny model by TRL's trainers, as they are or as Unsloth patches them for a GPU.

`python unsloth_patches.py trl|unsloth BASE OUT` writes the steps' metrics and the effective arguments into a folder,
with `unsloth` also the error of our backend on a GPU on which Unsloth does without vLLM.

Unsloth patches trl on import, if torch reports a GPU. So torch claims one during that import, and no longer. What runs
then is Unsloth's trainer and its loss on a stock model, on the CPU; its kernels and its model loader do not run.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

GPU = SimpleNamespace(
    name="A100",
    total_memory=40 * 2**30,
    major=8,
    minor=0,
    multi_processor_count=108,
    warp_size=32,
    gcnArchName="",
    L2_cache_size=40 * 2**20,
    shared_memory_per_block_optin=166_912,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65_536,
    is_integrated=0,
    uuid="0",
    pci_bus_id=0,
)
ANSWERS = {
    "is_available": True,
    "is_initialized": True,
    "is_bf16_supported": True,
    "device_count": 1,
    "current_device": 0,
    "get_device_capability": (8, 0),
    "get_device_name": GPU.name,
    "get_device_properties": GPU,
    "mem_get_info": (38 * 2**30, 40 * 2**30),
    "get_arch_list": ["sm_80"],
    "memory_reserved": 0,
    "max_memory_reserved": 0,
    "memory_allocated": 0,
    "empty_cache": None,
    "synchronize": None,
    "set_device": None,
}


@contextmanager
def pretended_gpu(**changes: object) -> Iterator[None]:
    os.environ |= {"UNSLOTH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1", "TRITON_INTERPRET": "1"}
    for name in ("_cuda_getCurrentRawStream", "_cuda_getDevice"):
        if not hasattr(torch._C, name):
            setattr(torch._C, name, lambda *_: 0)
    torch.version.cuda = "13.0"
    # Unsloth would load the libraries of an installed vLLM, which are none for this GPU.
    sys.modules["vllm"] = None  # type: ignore[assignment]
    with mock.patch.multiple(
        torch.cuda, **{name: lambda *_, answer=answer, **__: answer for name, answer in (ANSWERS | changes).items()}
    ):
        yield


def refusal_without_vllm(base: str, out: Path) -> str:
    """Start GRPO by our backend on a GPU too old for vLLM; Unsloth's loader then patches the model's classes."""
    import unsloth
    import unsloth.models.llama as loaded

    from tickerforge.training.backends import unsloth_
    from tickerforge.training.backends.base import TrainingJob
    from tickerforge.training.config import TrainingConfig
    from tickerforge.training.errors import BackendUnavailable

    config = TrainingConfig(model="local", load_in_4bit=False)
    load = unsloth.FastLanguageModel.from_pretrained
    here = {"device_map": {"": "cpu"}, "use_gradient_checkpointing": False}
    with (
        pretended_gpu(get_device_capability=(6, 0)),
        mock.patch.object(loaded, "get_current_device", return_value="cpu"),
        mock.patch.object(unsloth_, "gpu_name", return_value="P100"),
        mock.patch.object(unsloth.FastLanguageModel, "from_pretrained", lambda **given: load(**given, **here)),
    ):
        try:
            unsloth_.UnslothBackend().train_grpo([], job=TrainingJob("grpo_1st", base, None, config, out, 0))
        except BackendUnavailable as error:
            return str(error)
    return ""


def train(base: str, out: Path) -> dict[str, object]:
    from tickerforge.features.config import FeatureConfig, SyntheticConfig
    from tickerforge.features.synthetic import market
    from tickerforge.features.windows import build_windows
    from tickerforge.training.backends import horizon_credit, trl_
    from tickerforge.training.backends.base import TrainingJob
    from tickerforge.training.backends.loading import load_tokenizer, load_trainable
    from tickerforge.training.config import GRPOStageConfig, GuardConfig, SamplingConfig, TrainingConfig
    from tickerforge.training.examples import build_examples

    features = FeatureConfig()
    windows = build_windows(market(SyntheticConfig(sessions=400)), ticker="DEMO", config=features)
    windows = windows[windows["split"] == "train"].iloc[:20]
    # Prompts of two lengths.
    examples = [
        example
        for style in ("full", "prices")
        for example in build_examples(windows, config=features.model_copy(update={"prompt_style": style}))
    ]
    config = TrainingConfig(
        model="local",
        lora_rank=8,
        micro_batch_size=8,
        sampling=SamplingConfig(max_tokens=48),
        guard=GuardConfig(min_valid_rate=0.0, max_reward_drop=100.0),
        grpo_1st=GRPOStageConfig(steps=4, prompts_per_step=4, group_size=4, learning_rate=3e-3),
    )
    job = TrainingJob("grpo_1st", base, None, config, out, 0)
    made: list[object] = []
    configure = trl_.GRPOConfig

    def remembered(**given: object) -> object:
        made.append(configure(**given))
        return made[-1]

    trl_.GRPOConfig = remembered
    torch.set_num_threads(1)
    model = load_trainable(job)
    # Unsloth's own loader adds these.
    model.for_training = lambda **_: model.train()
    model.for_inference = lambda **_: model.eval()
    trl_.grpo(model, load_tokenizer(base, trust_remote_code=False), examples, job=job)
    arguments = {name: repr(value) for name, value in vars(made[0]).items() if not name.startswith("_")}
    return {"patched": horizon_credit.PATCHED_BY_UNSLOTH, "arguments": arguments}


if __name__ == "__main__":
    trainers, base, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    if trainers == "unsloth":
        with pretended_gpu():
            import unsloth  # noqa: F401
    facts = train(base, Path(out))
    if trainers == "unsloth":
        facts["refusal"] = refusal_without_vllm(base, Path(out))
    (Path(out) / "facts.json").write_text(json.dumps(facts))
