"""Where am I: machine, scale, number format with its reason, folders and token.

Loads torch only when asked about the machine, so that `import hermes_nb` stays fast. Lesson: 00_tour.
"""

import ctypes
import gc
import hashlib
import logging
import os
import platform
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from hermes_nb.errors import FileProblem, RecipeProblem, ResourceProblem

SCALES = ("tiny", "t4", "a100")


@dataclass(frozen=True)
class Machine:
    """What this machine is, and each automatic choice with its reason."""

    place: str  # colab | kaggle | local
    device: str  # cpu | cuda
    chip: str
    capability: str  # "8.0" on an A100, "" on a CPU
    memory_gb: float  # of the device that trains: VRAM, or RAM
    ram_gb: float
    cores: int
    dtype: str  # of the arithmetic: bfloat16 | float16 | float32
    dtype_reason: str
    scale: str
    scale_reason: str

    def line(self) -> str:
        """One line for the setup cell."""
        memory = f"{self.memory_gb:.0f} GB" if self.device == "cuda" else f"{self.cores} cores, {self.ram_gb:.0f} GB"
        return (
            f"hermes_nb on {self.place}: {self.chip} ({memory}) · scale {self.scale}: {self.scale_reason}"
            f" · {self.dtype}: {self.dtype_reason}"
        )

    def to_dict(self) -> dict:
        """Plain data for `run.json`."""
        return asdict(self)


def place() -> str:
    """Name the host: `colab`, `kaggle` or `local`."""
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else "local"


def choose_dtype(device: str, capability: tuple[int, int] | None, native_bf16: bool) -> tuple[str, str]:
    """Choose the number format of the arithmetic, with the reason in words.

    A T4 (capability 7.5) answers `is_bf16_supported() == True` and only emulates it; `native_bf16` must come
    from `including_emulation=False`. Returns `(dtype, reason)`.
    """
    if device == "cpu":
        if native_bf16:
            return "bfloat16", "this CPU multiplies bf16 natively"
        return "float32", "this CPU has no bf16 arithmetic"
    name = f"compute capability {capability[0]}.{capability[1]}"
    if native_bf16:
        return "bfloat16", f"{name} computes bf16 natively"
    return "float16", f"{name} only emulates bf16"


def choose_scale(device: str, memory_gb: float) -> tuple[str, str]:
    """Choose the scale from the device, or take `HERMES_SCALE`; returns `(scale, reason)`.

    Raises RecipeProblem for an unknown `HERMES_SCALE`.
    """
    wanted = os.environ.get("HERMES_SCALE", "auto")
    if wanted != "auto":
        if wanted not in SCALES:
            raise RecipeProblem(f"HERMES_SCALE={wanted!r} is no scale; use one of {', '.join(SCALES)} or auto.")
        return wanted, "set by HERMES_SCALE"
    if device == "cpu":
        return "tiny", "no GPU, so the built-in 135M model"
    if memory_gb < 14:
        return "tiny", f"only {memory_gb:.0f} GB of GPU memory, so the built-in 135M model"
    if memory_gb < 30:
        return "t4", f"{memory_gb:.0f} GB of GPU memory"
    return "a100", f"{memory_gb:.0f} GB of GPU memory"


def _chip_name() -> str:
    """The CPU's name as Linux gives it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def _hardware() -> tuple:
    """(device, chip, capability, memory_gb, ram_gb, cores, native bf16); the part that cannot change in a process."""
    import psutil
    import torch

    # one process drives one GPU; with two in sight the trainer would double the batch in silence
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    ram = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "cuda", card.name, (card.major, card.minor), card.total_memory / 2**30, ram, cores, native
    return "cpu", _chip_name(), None, ram, ram, cores, torch.cpu._is_avx512_bf16_supported()


def machine() -> Machine:
    """Describe this machine and the choices that follow from it."""
    device, chip, capability, memory, ram, cores, native = _hardware()
    scale, scale_reason = choose_scale(device, memory)
    dtype, dtype_reason = choose_dtype(device, capability, native)
    dotted = f"{capability[0]}.{capability[1]}" if capability else ""
    return Machine(
        place(), device, chip, dotted, memory, ram, cores, dtype, dtype_reason, scale, scale_reason
    )  # fmt: skip


def cache_dir() -> Path:
    """Folder for what is made once and kept: `HERMES_CACHE`, else `~/.cache/hermes_nb`."""
    folder = Path(os.environ.get("HERMES_CACHE") or Path.home() / ".cache" / "hermes_nb").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def runs_dir() -> Path:
    """Folder of runs: `HERMES_RUNS`, else `runs` at the root of a checkout, else `runs` where Python was started."""
    if os.environ.get("HERMES_RUNS"):
        return Path(os.environ["HERMES_RUNS"])
    root = Path(__file__).resolve().parent.parent
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / "runs"


def samples_dir() -> Path:
    """Folder `data_samples`: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "data_samples", package / "data_samples"):
        if folder.is_dir():
            return folder
    raise FileProblem("data_samples/ is missing beside the package; reinstall hermes_nb.")


def find_file(path: str | Path) -> Path:
    """Resolve a data file: as given, else in `data_samples/`. Raises FileProblem naming both places."""
    given = Path(path).expanduser()
    for candidate in (given, samples_dir() / given):
        if candidate.is_file():
            return candidate
    raise FileProblem(f"{path}: no such file, neither here ({Path.cwd()}) nor in data_samples/; check the path.")


def sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_disk(folder: Path, gigabytes: float) -> None:
    """Raise ResourceProblem when fewer than `gigabytes` are free where `folder` lies."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise ResourceProblem(
            f"{folder}: {gigabytes:.1f} GB needed, {free:.1f} GB free; free some or use another disk."
        )


def need_memory(gigabytes: float, what: str) -> None:
    """Raise ResourceProblem when the training device has less than `gigabytes` in all."""
    here = machine()
    if here.memory_gb < gigabytes:
        raise ResourceProblem(
            f"{what} needs about {gigabytes:.0f} GB on the {here.device}, this one has {here.memory_gb:.1f} GB; "
            f"use a smaller scale (--scale tiny) or a larger machine."
        )


def token() -> str | None:
    """The Hugging Face token: environment, Colab secret, or hub login; None without one. Never printed or stored."""
    if os.environ.get("HF_TOKEN"):
        return os.environ["HF_TOKEN"]
    from huggingface_hub import get_token

    # huggingface_hub reads Colab's secret by itself and turns a refusal into None
    return get_token()


def quiet() -> None:
    """Leave the screen to our own lines: other libraries' bars over our rows, and two notes that ask for nothing."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # bitsandbytes 0.50 says at import that an optional kernel package is missing
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # PEFT 0.21 and TRL 1.16 use names that transformers 5.23 has changed
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


def announce(scale: str | None = None) -> Machine:
    """Print the one line that ends every setup cell; `scale` overrides the choice for this process."""
    quiet()
    if scale:
        os.environ["HERMES_SCALE"] = scale  # so that recipes loaded later follow it
    here = machine()
    print(here.line())
    return here


def give_back() -> None:
    """Collect garbage and hand freed memory back to the system.

    glibc keeps what was freed in pieces: after a generation on a CPU, whose cache grows step by step, gigabytes.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_gb() -> float:
    """Peak memory of this process so far: GPU memory where there is one, else resident memory (GB)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows keeps no peak there
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
