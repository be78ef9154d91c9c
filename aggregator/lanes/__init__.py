"""The way of a batch to a predictor and back."""
