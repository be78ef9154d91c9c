"""Benchmarks: Trillium beside what it is compared with, in one run; see docs/performance.md."""
