"""The report on benchmark runs: one HTML page that needs nothing else, and its figures as PNGs."""
