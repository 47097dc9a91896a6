"""The registry: what targets.md lists, and how it is chosen from."""

import pytest
import torch

from kernels.bench.floors import Floors, floor_times
from kernels.bench.registry import ENTRIES, select
from kernels.common.errors import UnsupportedError

TARGETS = {
    "8x2048x2048x16": (0.595, 2.446),
    "8x2048x4096x16": (1.168, 4.870),
    "1x2048x2048x16": (0.0896, 0.396),
    "1x2048x16384x16": (0.774, 2.86),
    "1x2048x131072x16": (5.81, 22.8),
    "32x1536x1024x16": (0.842, 3.52),
    "64x128x4096x16": (0.690, 2.717),
    "8x128x256x16": (0.0165, 0.0536),
    "8x2048x2048x64": (1.978, 9.27),
}


def test_the_scan_has_every_recorded_official_figure() -> None:
    scan = next(entry for entry in ENTRIES if entry.name == "selective_scan")
    recorded = {shape.label: (shape.anchor.forward, shape.anchor.backward) for shape in scan.shapes if shape.anchor}
    assert recorded == TARGETS
    assert all("e9594ce" in shape.anchor.source for shape in scan.shapes if shape.anchor)


@pytest.mark.parametrize(
    ("label", "memory", "exp"),
    [("8x2048x2048x16", 0.090, 0.145), ("8x2048x2048x64", 0.091, 0.579), ("1x2048x131072x16", 0.719, 1.159)],
)
def test_floors_agree_with_the_targets(label: str, memory: float, exp: float) -> None:
    scan = next(entry for entry in ENTRIES if entry.name == "selective_scan")
    shape = next(shape for shape in scan.shapes if shape.label == label)
    forward, _ = floor_times(scan.work(shape.sizes, 2), Floors(bytes_per_s=3.02e12, exps_per_s=3.7e12))
    assert forward.memory == pytest.approx(memory, rel=0.03)
    assert forward.exp == pytest.approx(exp, rel=0.03)


def test_labels_are_unique_and_match_the_entry() -> None:
    for entry in ENTRIES:
        labels = [shape.label for shape in entry.shapes]
        assert len(set(labels)) == len(labels)
        assert all(tuple(shape.sizes) == entry.sizes for shape in (*entry.shapes, *entry.small_shapes))


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_every_check_can_be_made_and_names_its_op(entry: object) -> None:
    assert entry.checks  # type: ignore[attr-defined]
    for make in entry.checks:  # type: ignore[attr-defined]
        assert make(torch.float32, "cpu").op == entry.name  # type: ignore[attr-defined]


def test_selection_by_op_and_shape() -> None:
    pairs = select(["rms_norm", "selective_scan"], ["8x256x64", "8x128x256x16"], small=False)
    assert [(entry.name, shape.label) for entry, shape in pairs] == [
        ("selective_scan", "8x128x256x16"),
        ("rms_norm", "8x256x64"),
    ]


@pytest.mark.parametrize(("ops", "shapes"), [(["scan"], None), (None, ["1x2x3"]), (["rms_norm"], ["8x128x256x16"])])
def test_unknown_names_are_refused_with_the_known_ones(ops: list[str] | None, shapes: list[str] | None) -> None:
    with pytest.raises(UnsupportedError, match="known: .*rms_norm"):
        select(ops, shapes, small=False)
