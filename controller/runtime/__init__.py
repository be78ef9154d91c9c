"""What runs predictors: a narrow port and what implements it."""
