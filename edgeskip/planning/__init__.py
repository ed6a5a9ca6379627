"""Choosing what to skip: plans from statistics, plans within a budget, what a plan costs."""
