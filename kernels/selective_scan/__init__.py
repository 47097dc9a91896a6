"""The recurrence of Mamba-1 over a whole sequence."""

from kernels.selective_scan.api import ScanOutput, selective_scan

__all__ = ["ScanOutput", "selective_scan"]
