"""Which predictors may be asked, published to aggregators as snapshots."""
