"""What the tests on a GPU share."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that `tests.parity.run` looks at."""
    config.addinivalue_line("markers", "whole_gpu: takes most of the GPU's memory, so it runs last and alone")
