"""From the rounds of a log to rows, ratios and intervals."""
