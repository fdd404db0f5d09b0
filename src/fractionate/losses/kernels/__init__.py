"""Kernels: losses without logits, and the remainder of truncated signals in closed form."""
