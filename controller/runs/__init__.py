"""One-shot scoring jobs: scored once, and the result kept."""
