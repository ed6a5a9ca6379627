"""Puts this folder on the path, so that tests in the folders below may import `made_runs` too."""
