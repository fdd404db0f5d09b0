"""Data in batches: splits of examples with stable ids, read the same way by every verb."""
