"""Triton's interpreter is chosen when a kernel is defined, for the whole process: this folder runs in one of its own.

    TRITON_INTERPRET=1 pytest tests/interpreter

Without that variable nothing here is collected, so that the ordinary run, where kernels are compiled, neither fails nor
skips on it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """Tiny tensors: threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def no_sums_that_nobody_reads() -> Iterator[None]:
    """Without `debug` the interpreter still repeats every sum of integers in int64 for an overflow check, and drops the result.

    That was half of the time of the kernels with products.
    """
    from triton.runtime.interpreter import interpreter_builder

    options = interpreter_builder.options
    if not options.debug:
        interpreter_builder.options = replace(options, sanitize_overflow=False)
    yield
    interpreter_builder.options = options
