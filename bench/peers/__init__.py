"""What others serve models with, doing the same job; see docs/performance.md."""
