"""Losses: terms beside the objective."""
