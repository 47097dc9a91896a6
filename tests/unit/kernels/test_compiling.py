"""What Triton's compiler says of a kernel, on a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_general_kernel_compiles_for_a_gpu_with_resets() -> None:
    script = Path(__file__).with_name("compile_for_a_gpu.py")
    command = [sys.executable, "-c", f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "scan_kernel" in done.stdout.split()
