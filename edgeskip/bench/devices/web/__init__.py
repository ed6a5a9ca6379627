"""Benchmarks in a browser: a phone that opens a page, or a Chromium started here."""
