"""Memory of threads: taken once and used again."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys, threading
import torch
from terascope.engines.torch import heap
if sys.argv[1] == "kept":
    assert heap.keep()
torch.set_num_threads(1)

def work():
    parts = [torch.ones(1 << 18) for _ in range(24)]  # a megabyte each, all let go of together, as after a step

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def repeat():
    for _ in range(8):
        work()
    before = faults()
    for _ in range(32):
        work()
    print(faults() - before)

work()
thread = threading.Thread(target=repeat)
thread.start()
thread.join()
"""


def _faults(kind: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, kind], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_a_thread_does_not_take_its_memory_anew() -> None:
    """Page faults of a thread that does the same again and again: with a heap of its own it has them every time."""
    assert _faults("kept") < 100 < _faults("own")
