"""Effects of a study: paired differences over seeds, intervals, corrections, verdicts, shares, power. Records only."""
