"""Quantised GGUF weights as a Hugging Face folder."""

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from tickerforge.training.backends.loading import quieten

END = "<|im_end|>"


def convert(gguf: Path, out_dir: Path, *, on_read: Callable[[], None]) -> int:
    """Save a chat model in GGUF as float32 safetensors, with its tokenizer.

    Args:
        gguf: File with the weights.
        out_dir: Existing folder of the model.
        on_read: Called when the weights have been read.

    Returns:
        The number of parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quieten()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers takes the start token for the end token when it reads this file.
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.clean_up_tokenization_spaces = False
    # Its own progress bar, which cannot be switched off, would overwrite ours.
    with redirect_stderr(StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    on_read()
    # transformers refuses to save a model that it read from GGUF, so an equal one is made without that history.
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    with torch.device("meta"):
        model = type(quantised)(type(quantised.config).from_dict(settings))
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantised.generation_config
    model.save_pretrained(out_dir, safe_serialization=True)
    tokenizer.save_pretrained(out_dir)
    return int(model.num_parameters())
