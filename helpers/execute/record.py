"""Runs inside a chapter's kernel, last: what the run was like."""

import json
import os
import platform
import resource
import sys


def finish() -> None:
    """Append the kernel's peak memory, device and versions to the record."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    peak /= 2**20 if sys.platform == "darwin" else 2**10
    entry = {
        "kind": "kernel",
        "kernel": {
            "python": platform.python_version(),
            "peak_memory_mib": round(peak),
            **_torch(),
        },
    }
    with open(os.environ["BOOK_RECORD"], "a") as file:
        file.write(json.dumps(entry) + "\n")


def _torch() -> dict:
    """Device, threads and version, if the chapter used torch at all."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "no torch used"}
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
