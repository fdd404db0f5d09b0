"""Models: modules and what passes through them."""
