"""Deployments: what their owners ask for, what is, and the loop that brings the two together."""
