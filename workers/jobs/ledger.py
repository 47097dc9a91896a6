"""Who holds which share of the cluster. Pure: it knows neither executors nor the store.

Shares are counted in units of 1/10,000, as Ray counts them, so that ten runs of 0.1 GPU fill one exactly. A node never
gives more CPUs than it has, and a GPU never more than itself: a fraction lies on one GPU, the fullest that has room;
whole GPUs are GPUs that nobody else uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from workers.jobs.executors.base import Capacity, Node

UNIT = 10_000


@dataclass(frozen=True, slots=True)
class Share:
    """What one attempt asks: CPUs, and GPUs (a fraction below one, or whole ones)."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an attempt is: its node, the indices of the GPUs there that it uses, and its share.

    Attempts of one `pack`, an ensemble, share one placement, which counts once.
    """

    node: str
    devices: tuple[int, ...]
    share: Share
    pack: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A placement and its run's place in the queue: `order` is smaller for a run that comes first."""

    placement: Placement
    order: tuple[int, int]


@dataclass(slots=True)
class _Room:
    """What a node has left, in units."""

    cpus: int
    gpus: list[int]

    def fit(self, share: Share) -> tuple[int, ...] | None:
        """Return the devices that a share would get, or None where there is no room."""
        if _units(share.cpus) > self.cpus:
            return None
        asked = _units(share.gpus)
        if asked == 0:
            return ()
        if asked < UNIT:
            roomy = [(left, index) for index, left in enumerate(self.gpus) if left >= asked]
            return (min(roomy)[1],) if roomy else None
        whole = [index for index, left in enumerate(self.gpus) if left == UNIT]
        count, rest = divmod(asked, UNIT)
        return tuple(whole[:count]) if rest == 0 and len(whole) >= count else None

    def take(self, placement: Placement) -> None:
        """Subtract a placement."""
        self.cpus -= _units(placement.share.cpus)
        each = min(_units(placement.share.gpus), UNIT)
        for index in placement.devices:
            if index < len(self.gpus):
                self.gpus[index] -= each


@dataclass(slots=True)
class Ledger:
    """The shares in use.

    Args:
        exclusive: an attempt gets a whole node, whatever it asks: for executors that run one at a time.
    """

    exclusive: bool = False
    _nodes: dict[str, Node] = field(default_factory=dict)
    _held: dict[str, Held] = field(default_factory=dict)
    _blocked: list[tuple[str, Share, tuple[int, int]]] = field(default_factory=list)

    def update(self, capacity: Capacity) -> bool:
        """Take note of the nodes there are now; what is held stays held. Return whether they changed."""
        nodes = {node.name: node for node in capacity.nodes}
        changed, self._nodes = nodes != self._nodes, nodes
        return changed

    def share_of(self, cpus: float, gpus: float | None) -> Share:
        """Return what a run asks. GPUs that the controller shall choose (None): one where there is any, else none."""
        if self.exclusive and self._nodes:
            largest = max(self._nodes.values(), key=lambda node: (node.gpus, node.cpus))
            return Share(largest.cpus, float(largest.gpus))
        if gpus is None:
            gpus = 1.0 if any(node.gpus for node in self._nodes.values()) else 0.0
        return Share(cpus, gpus)

    def never_fits(self, share: Share) -> str:
        """Return why no node could hold a share even when idle; empty where one could, or no node is known yet."""
        if not self._nodes or any(_empty(node).fit(share) is not None for node in self._nodes.values()):
            return ""
        cpus = max(node.cpus for node in self._nodes.values())
        gpus = max(node.gpus for node in self._nodes.values())
        if share.gpus > 1 and _units(share.gpus) % UNIT:
            return (
                f"it asks for {share.gpus:g} GPUs: expected a fraction below 1, or a whole number. Set resources.gpus."
            )
        return (
            f"it asks for {share.cpus:g} CPUs and {share.gpus:g} GPUs on one machine, and the largest here has {cpus:g} "
            f"CPUs and {gpus} GPUs. Lower resources.cpus or resources.gpus, or use a larger cluster (--address)."
        )

    def start_round(self) -> None:
        """Begin to go through the queue, first run first: nobody waits for room yet."""
        self._blocked.clear()

    def place(self, key: str, share: Share, order: tuple[int, int]) -> Placement | None:
        """Reserve a share where there is room, or return None.

        A run for which there is none keeps its claim for the rest of the round: runs behind it may pass only where
        they leave what it needs, once those before it have ended. So nobody waits for ever behind smaller runs.
        """
        best: tuple[tuple[int, int], Placement] | None = None
        for node in self._nodes.values():
            room = self._room(node)
            devices = room.fit(share)
            if devices is None:
                continue
            placement = Placement(node.name, devices, share)
            if not self._leaves_claims(node, Held(placement, order)):
                continue
            rank = (sum(room.gpus) if share.gpus == 0 else 0, room.cpus)  # keep GPUs' nodes free; fill the fullest
            if best is None or rank < best[0]:
                best = (rank, placement)
        if best is None:
            self._claim(share, order)
            return None
        self._held[key] = Held(best[1], order)
        return best[1]

    def hold(self, key: str, placement: Placement, order: tuple[int, int]) -> None:
        """Take note of an attempt that is at work already."""
        self._held[key] = Held(placement, order)

    def free(self, key: str) -> None:
        """Give an attempt's share back; one that holds none is none to give back."""
        self._held.pop(key, None)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The machines there are."""
        return tuple(self._nodes.values())

    def of_pack(self, name: str) -> Placement | None:
        """Return the placement that the attempts of an ensemble share, where any of them holds it."""
        places = (held.placement for held in self._held.values())
        return next((placement for placement in places if name and placement.pack == name), None)

    def held(self) -> dict[str, Placement]:
        """Return the placements in use, by the key of the attempt; of an ensemble's each member has its part."""
        sizes = Counter(held.placement.pack for held in self._held.values())
        return {key: _part(held.placement, sizes[held.placement.pack]) for key, held in self._held.items()}

    def why_waits(self, share: Share, order: tuple[int, int]) -> str:
        """Return why a share that did not start in this round waits; empty where nothing is in its way."""
        if not self._nodes:
            return "no machine has joined yet"
        if self.never_fits(share):
            return "larger than every machine"
        free = [node for node in self._nodes.values() if self._room(node).fit(share) is not None]
        if not free:
            return self._lacking(share)
        candidates = (Held(Placement(node.name, self._room(node).fit(share) or (), share), order) for node in free)
        if any(self._leaves_claims(self._nodes[held.placement.node], held) for held in candidates):
            return ""
        return "keeps room for larger runs before it"

    def _lacking(self, share: Share) -> str:
        """Return what no machine has enough of, CPUs or else GPUs."""
        rooms = [self._room(node) for node in self._nodes.values()]
        if all(room.cpus < _units(share.cpus) for room in rooms):
            most = max(max(0, room.cpus) for room in rooms) / UNIT
            return f"asks for {_count(share.cpus, 'CPU')}, {most:g} free"
        if 0 < share.gpus < 1:
            most = max((left for room in rooms for left in room.gpus), default=0) / UNIT
            return f"asks for {share.gpus:g} of a GPU, {most:g} of one free"
        if share.gpus:
            most = max(sum(left == UNIT for left in room.gpus) for room in rooms)
            return f"asks for {_count(share.gpus, 'GPU')}, {most} free"
        return "CPUs and GPUs are not free on one machine"

    @property
    def full(self) -> bool:
        """Whether no node has any CPU left."""
        return all(self._room(node).cpus <= 0 for node in self._nodes.values())

    def _room(self, node: Node, held: Iterable[Held] | None = None) -> _Room:
        room = _empty(node)
        packs: set[str] = set()
        for one in self._held.values() if held is None else held:
            placement = one.placement
            if placement.node == node.name and placement.pack not in packs:
                room.take(placement)
                packs |= {placement.pack} - {""}
        return room

    def _claim(self, share: Share, order: tuple[int, int]) -> None:
        """Let a run that found no room claim the node where it will find some first: the one with most room now."""
        taken = {name for name, _, _ in self._blocked}
        able = [node for node in self._nodes.values() if _empty(node).fit(share) is not None]
        able = [node for node in able if node.name not in taken] or able
        if able:
            chosen = max(
                able, key=lambda node: (sum(self._room(node).gpus) if share.gpus else 0, self._room(node).cpus)
            )
            self._blocked.append((chosen.name, share, order))

    def _leaves_claims(self, node: Node, candidate: Held) -> bool:
        """Say whether every claim on a node can be met once all that came before the claim has ended."""
        for name, share, order in self._blocked:
            if name != node.name or candidate.order < order:
                continue
            behind = [held for held in self._held.values() if held.order > order]
            if self._room(node, [*behind, candidate]).fit(share) is None:
                return False
        return True


def _part(placement: Placement, members: int) -> Placement:
    if not placement.pack:
        return placement
    share = placement.share
    return replace(placement, share=Share(share.cpus / members, share.gpus / members))


def _empty(node: Node) -> _Room:
    return _Room(_units(node.cpus), [UNIT] * node.gpus)


def _count(amount: float, unit: str) -> str:
    return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def _units(amount: float) -> int:
    return round(amount * UNIT)
