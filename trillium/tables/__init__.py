"""Tables of features and labels: read from files, checked, their columns matched by name."""
