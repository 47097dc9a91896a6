"""What tests of several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from workers.jobs.cluster import ClusterRecord

# Read when torch is loaded. Tensors are tiny here, and each core has a process of its own: threads beyond one wait for each
# other in turns, which made some tests ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is (and, in a fresh clone, that Hypothesis still builds its table of
# characters), not whether the code is right.
settings.register_profile("mambalab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mambalab")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, run the files that start controllers, workers and clusters one after another, beside the others.

    They wait more than they compute, share one Ray head that way, and would slow each other down.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = _what_runs_in_one_place
    return scheduler


def _what_runs_in_one_place(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return "processes" if file.startswith(("tests/chaos/", "tests/e2e/")) else file


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterRecord]:
    """One Ray head for the whole session, of two CPUs: starting it takes seconds. Nobody may kill it."""
    from tests.e2e.jobs_lab import head

    with head(tmp_path_factory.mktemp("ray") / "home") as record:
        yield record
