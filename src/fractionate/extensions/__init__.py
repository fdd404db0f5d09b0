"""Parts beyond plain classification; each adds terms and rules, none adds a training loop."""
