"""Peak memory of a piece of work, above what was in use when it began."""

from pathlib import Path

import psutil
import torch

RESET = Path("/proc/self/clear_refs")  # Linux: writing 5 sets the peak to what is resident now
STATUS = Path("/proc/self/status")


class Peak:
    """Context whose `gb` is, after it, the peak above the start: of GPU memory where there is one, else resident.

    None where the system does not tell (a CPU of another system than Linux).
    """

    gb: float | None = None

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        elif RESET.exists():
            RESET.write_text("5")
            self.start = psutil.Process().memory_info().rss
        return self

    def __exit__(self, *error):
        if torch.cuda.is_available():
            self.gb = (torch.cuda.max_memory_allocated() - self.start) / 1e9
        elif RESET.exists():
            line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            self.gb = (int(line.split()[1]) * 1024 - self.start) / 1e9
