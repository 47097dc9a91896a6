"""Triton's interpreter is chosen when a kernel is defined, for the whole process: this folder runs in one of its own.

    TRITON_INTERPRET=1 pytest tests/interpreter

Without that variable nothing here is collected, so that the ordinary run, where kernels are compiled, neither fails nor
skips on it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

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


@pytest.fixture(scope="session", autouse=True)
def the_language_is_replaced_once_a_kernel() -> Iterator[None]:
    """Each call of a function by a kernel looks through the whole language for what is to be replaced, and finds that the kernel's
    start has replaced it: a good third of the time.
    """
    from triton import language
    from triton.runtime import interpreter

    replace_language = interpreter._patch_lang
    known: dict[Callable[..., Any], list[Any]] = {}

    def replace_once(function: Callable[..., Any]) -> Any:
        if function not in known:
            seen = [value for value in function.__globals__.values() if value is language or value is language.core]
            known[function] = seen
        if known[function] and not any(language.core.is_builtin(one.load) for one in known[function]):
            return None  # a kernel is running; what its start returned restores the language
        return replace_language(function)

    interpreter._patch_lang = replace_once
    yield
    interpreter._patch_lang = replace_language


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backward operators in the order in which autograd takes them."""
    from kernels.selective_scan import triton_op

    names: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        op = getattr(triton_op, name)

        def call(*arguments: Any) -> Any:
            names.append(name.removeprefix("selective_scan_backward").removeprefix("_"))
            return op(*arguments)

        return call

    for name in ("selective_scan_backward", "selective_scan_backward_spending"):
        monkeypatch.setattr(triton_op, name, noting(name))
    return names
