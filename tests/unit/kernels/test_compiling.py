"""What Triton's compiler says of a kernel, on a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNROLLED = 4
"""Blocks of a warp in the body of the loop over turns."""


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[int, int]]:
    """Of each kernel, how many exponentials and how many barriers behind a predicate it has."""
    script = Path(__file__).with_name("compile_for_a_gpu.py")
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(exponentials), int(guarded)) for name, exponentials, guarded in lines}


def test_the_general_kernel_compiles_for_a_gpu_with_resets(compiled: dict[str, tuple[int, int]]) -> None:
    assert "scan_kernel" in compiled


def test_warps_that_take_turns_take_each_exponential_once(compiled: dict[str, tuple[int, int]]) -> None:
    a_block = 8 * 4  # steps and states of a lane
    for_two_elements = 2 + 2  # of softplus and of the gate
    across_the_block = 4  # a state of a lane each
    assert compiled["relay_kernel"][0] == UNROLLED * (a_block + across_the_block + for_two_elements)


def test_no_barrier_of_the_turns_parts_a_warp(compiled: dict[str, tuple[int, int]]) -> None:
    assert compiled["relay_kernel"][1] == 0
