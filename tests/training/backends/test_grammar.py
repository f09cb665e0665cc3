"""Constrained answers always parse, whatever the model and its tokenizer."""

import pytest
import torch

from tickerforge.features.prompts import DECIMALS, STANDARDISED_SYSTEM_PROMPT, SYSTEM_PROMPT, AnswerFormat, Chat, parse
from tickerforge.training.backends.base import SamplingJob
from tickerforge.training.backends.transformers_ import TransformersBackend
from trained_pieces import TRAINING, pieces

HORIZON = 4


def chats(system: str) -> list[Chat]:
    return [
        [{"role": "system", "content": system}, {"role": "user", "content": f"prices {first} 2 0\nforecast {HORIZON}"}]
        for first in range(3)
    ]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with random weights and an ordinary tokenizer, of bytes and of what is frequent in some text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([SYSTEM_PROMPT, STANDARDISED_SYSTEM_PROMPT], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            eos_token_id=fast.eos_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("untrained")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def draw(base: str, asked: list[Chat], **changes: object) -> list[list[str]]:
    config = TRAINING.model_copy(update={"sampling": TRAINING.sampling.model_copy(update=changes)})
    return TransformersBackend().generate(
        asked, job=SamplingJob(base, None, config, answers=4, horizon=HORIZON, seed=0)
    )


def valid_rate(answers: list[list[str]]) -> float:
    texts = [text for group in answers for text in group]
    return sum(parse(text, horizon=HORIZON) is not None for text in texts) / len(texts)


@pytest.mark.parametrize(
    "system",
    [AnswerFormat(style, decimals).system_prompt for style in ("list", "numbered") for decimals in (0, DECIMALS)],
    ids=["integers", "decimals", "numbered integers", "numbered decimals"],
)
def test_even_an_untrained_model_writes_valid_answers_under_a_grammar(untrained: str, system: str) -> None:
    pytest.importorskip("xgrammar")
    answers = draw(untrained, chats(system), constrained=True)
    assert valid_rate(answers) == 1.0
    assert len({text for group in answers for text in group}) == 12
    assert valid_rate(draw(untrained, chats(system))) == 0.0


def test_the_tiny_tokenizer_is_held_to_the_format_too() -> None:
    pytest.importorskip("xgrammar")
    base = pieces().base_model.location
    assert valid_rate(draw(base, chats(SYSTEM_PROMPT), temperature=2.0, constrained=True)) == 1.0
    assert valid_rate(draw(base, chats(SYSTEM_PROMPT), temperature=2.0)) < 1.0
