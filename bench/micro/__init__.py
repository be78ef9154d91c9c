"""Micro-benchmarks of what is the project's own on the path of a call: make bench-micro."""
