"""The systems that are measured side by side, and how each is started."""
