"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workers.jobs.cluster import ClusterRecord


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterRecord]:
    """One Ray head for the whole session, of two CPUs: starting it takes seconds. Nobody may kill it."""
    from tests.e2e.jobs_lab import head

    with head(tmp_path_factory.mktemp("ray") / "home") as record:
        yield record
