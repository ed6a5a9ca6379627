"""From the samples of a log to rows, ratios and intervals."""
