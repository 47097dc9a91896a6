"""Shares: nobody gets what another one holds, the queue's order counts, and nobody waits for ever."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.jobs.executors.base import Capacity, Node
from workers.jobs.ledger import Held, Ledger, Placement, Share

UNHURRIED = settings(deadline=None, max_examples=50)  # how fast this machine is decides nothing

CPUS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
GPUS = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0])
SHARES = st.builds(Share, CPUS, GPUS)
NODES = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 4.0]), st.integers(0, 3)), min_size=1, max_size=3).map(
    lambda sizes: tuple(Node(f"node{index}", cpus, gpus) for index, (cpus, gpus) in enumerate(sizes))
)


def ledger_of(*nodes: Node) -> Ledger:
    ledger = Ledger()
    ledger.update(Capacity(nodes))
    return ledger


def check_no_oversubscription(nodes: tuple[Node, ...], placements: list[Placement]) -> None:
    for node in nodes:
        here = [placement for placement in placements if placement.node == node.name]
        assert sum(round(placement.share.cpus * 10_000) for placement in here) <= round(node.cpus * 10_000)
        for device in range(node.gpus):
            users = [placement.share.gpus for placement in here if device in placement.devices]
            assert sum(round(min(share, 1.0) * 10_000) for share in users) <= 10_000
            assert len(users) == 1 or all(share < 1 for share in users)
        assert all(device < node.gpus for placement in here for device in placement.devices)


@UNHURRIED
@given(NODES, st.lists(st.tuples(SHARES, st.integers(-2, 2), st.booleans()), max_size=40), st.randoms())
def test_no_node_and_no_gpu_is_ever_oversubscribed(
    nodes: tuple[Node, ...], steps: list[tuple[Share, int, bool]], chance: random.Random
) -> None:
    ledger = ledger_of(*nodes)
    held: dict[str, Placement] = {}
    for number, (share, priority, end_one) in enumerate(steps):
        if end_one and held:
            ended = chance.choice(sorted(held))
            ledger.free(ended)
            del held[ended]
        if number % 3 == 0:
            ledger.start_round()
        placement = ledger.place(str(number), share, (-priority, number))
        if placement is not None:
            wanted = len(placement.devices)
            assert wanted == (1 if 0 < share.gpus < 1 else int(share.gpus))
            held[str(number)] = placement
        check_no_oversubscription(nodes, list(held.values()))


@UNHURRIED
@given(NODES, SHARES)
def test_a_share_fits_an_idle_cluster_or_never(nodes: tuple[Node, ...], share: Share) -> None:
    ledger = ledger_of(*nodes)
    placed = ledger.place("run", share, (0, 0))
    assert (placed is None) == bool(ledger.never_fits(share))


@dataclass
class Simulation:
    """A queue that never runs dry; one attempt ends a round, oldest first or at random."""

    ledger: Ledger
    nodes: tuple[Node, ...]
    waiting: list[tuple[int, Share]] = field(default_factory=list)
    held: dict[int, Share] = field(default_factory=dict)
    started_at: dict[int, int] = field(default_factory=dict)
    clock: int = 0

    def round(self) -> None:
        self.ledger.start_round()
        for number, share in list(self.waiting):
            if self.ledger.place(str(number), share, (0, number)) is not None:
                self.waiting.remove((number, share))
                self.held[number] = share
                self.started_at[number] = self.clock
        self.clock += 1

    def end(self, number: int) -> None:
        self.ledger.free(str(number))
        del self.held[number]


@UNHURRIED
@given(NODES, st.lists(SHARES, min_size=1, max_size=12), st.lists(SHARES, min_size=1, max_size=5), st.randoms())
def test_nobody_starves_behind_an_endless_stream_of_smaller_runs(
    nodes: tuple[Node, ...], first: list[Share], stream: list[Share], chance: random.Random
) -> None:
    ledger = ledger_of(*nodes)
    fitting = [share for share in first if not ledger.never_fits(share)]
    endless = itertools.cycle([share for share in stream if not ledger.never_fits(share)] or [Share(0.1)])
    simulation = Simulation(ledger, nodes)
    numbers = itertools.count()
    simulation.waiting = [(next(numbers), share) for share in fitting]
    patience = 60 * (len(fitting) + 1)
    for _ in range(patience):
        while len(simulation.waiting) < len(fitting) + 8:
            simulation.waiting.append((next(numbers), next(endless)))
        simulation.round()
        if all(number in simulation.started_at for number in range(len(fitting))):
            return
        if simulation.held:
            # every attempt ends some time: half of the ends come in order, half anywhere
            oldest, anywhere = min(simulation.held), chance.choice(sorted(simulation.held))
            simulation.end(oldest if chance.random() < 0.5 else anywhere)
    raise AssertionError(f"{[n for n in range(len(fitting)) if n not in simulation.started_at]} never started")


def test_a_large_run_holds_back_those_behind_it_but_only_from_what_it_needs() -> None:
    ledger = ledger_of(Node("a", 4.0, 1))
    ledger.place("holds the gpu", Share(1.0, 1.0), (0, 0))
    ledger.start_round()
    assert ledger.place("wants the gpu", Share(2.0, 1.0), (0, 1)) is None
    assert ledger.place("fits beside", Share(1.0), (0, 2)) is not None
    assert ledger.place("fits beside too", Share(1.0), (0, 3)) is not None
    assert ledger.place("would take its cpus", Share(1.0), (0, 4)) is None
    ledger.free("holds the gpu")
    ledger.start_round()
    assert ledger.place("wants the gpu", Share(2.0, 1.0), (0, 1)) is not None


def test_ten_tenths_fill_a_gpu() -> None:
    ledger = ledger_of(Node("a", 16.0, 2))
    placed = [ledger.place(str(index), Share(0.1, 0.1), (0, index)) for index in range(20)]
    devices = [placement.devices for placement in placed if placement is not None]
    assert sorted(devices) == [(0,)] * 10 + [(1,)] * 10
    assert ledger.place("one more", Share(0.1, 0.1), (0, 20)) is None


def test_a_fraction_goes_where_least_is_left_and_whole_gpus_stay_whole() -> None:
    ledger = ledger_of(Node("a", 16.0, 2))
    first = ledger.place("half", Share(1, 0.5), (0, 0))
    second = ledger.place("quarter", Share(1, 0.25), (0, 1))
    whole = ledger.place("whole", Share(1, 1.0), (0, 2))
    assert first is not None
    assert second is not None
    assert whole is not None
    assert first.devices == second.devices == (0,)
    assert whole.devices == (1,)


def test_runs_without_gpu_keep_off_the_machine_that_has_one() -> None:
    ledger = ledger_of(Node("gpu", 2.0, 1), Node("cpu", 2.0))
    placements = [ledger.place(str(index), Share(1.0), (0, index)) for index in range(3)]
    assert [placement.node for placement in placements if placement] == ["cpu", "cpu", "gpu"]


def test_what_is_held_stays_held_when_a_machine_leaves_and_comes_back() -> None:
    ledger = ledger_of(Node("a", 1.0), Node("b", 1.0))
    first = ledger.place("run", Share(1.0), (0, 0))
    assert first is not None
    ledger.update(Capacity((Node("b", 1.0),)))
    ledger.update(Capacity((Node("a", 1.0),)))
    assert (ledger.place("next", Share(1.0), (0, 1)) is None) == (first.node == "a")


def test_an_attempt_taken_over_holds_its_share() -> None:
    ledger = ledger_of(Node("a", 2.0, 1))
    ledger.hold("old", Placement("a", (0,), Share(1.5, 0.5)), (0, 0))
    assert ledger.place("cpu", Share(1.0), (0, 1)) is None
    ledger.start_round()
    assert ledger.place("gpu", Share(0.1, 0.6), (0, 2)) is None
    ledger.start_round()
    assert ledger.place("fits", Share(0.5, 0.5), (0, 3)) is not None


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share(9.0), "9 CPUs and 0 GPUs on one machine, and the largest here has 4 CPUs and 2 GPUs"),
        (Share(1.0, 3.0), "1 CPUs and 3 GPUs"),
        (Share(1.0, 1.5), "asks for 1.5 GPUs: expected a fraction below 1, or a whole number"),
    ],
)
def test_what_never_fits_is_explained(share: Share, said: str) -> None:
    assert said in ledger_of(Node("a", 4.0, 2)).never_fits(share)


def test_without_any_machine_nothing_is_placed_and_nothing_given_up() -> None:
    ledger = Ledger()
    assert ledger.full
    assert ledger.never_fits(Share(1.0)) == ""
    assert ledger.place("run", Share(1.0), (0, 0)) is None


def test_held_orders_compare_by_priority_then_age() -> None:
    placement = Placement("a", (), Share(1.0))
    assert Held(placement, (-5, 9)).order < Held(placement, (0, 1)).order < Held(placement, (0, 2)).order
