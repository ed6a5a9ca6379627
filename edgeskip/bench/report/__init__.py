"""The report on benchmark runs: one HTML page that needs nothing else, its figures as PNGs besides."""
