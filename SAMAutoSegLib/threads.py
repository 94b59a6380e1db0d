"""How threads wait for each other."""

import os

# Each thread of torch does a part of every step, and waits for the slowest by running in a circle.
# Where another program has one of the cores, the slowest does not get on while all others hold
# theirs: measured on two cores with one of them taken, a training was more than ten times as slow
# as with this. With no other program it is as fast as before.
_WAITS = {
    "GOMP_SPINCOUNT": "1000",  # turns, with GNU's OpenMP: Linux
    "KMP_BLOCKTIME": "1",  # milliseconds, with LLVM's and Intel's: macOS, Windows; not measured
}


def let_waiting_threads_sleep() -> None:
    """To be called before torch is imported; what the user has set in the environment stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in _WAITS.items():
            os.environ.setdefault(name, value)
