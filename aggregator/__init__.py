"""The front door of an ensemble: `python -m aggregator --help`."""
