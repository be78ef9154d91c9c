"""Which predictors an ensemble consists of, and what is known of each."""
