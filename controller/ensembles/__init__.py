"""Ensembles, which users own: revisions, which of them serve, and deployments of their classes."""
