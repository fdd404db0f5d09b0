"""Recipes: what is varied between students, as frozen data."""

from __future__ import annotations

from fractionate.training.recipe import Recipe

__all__ = ["Recipe"]
