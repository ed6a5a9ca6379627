"""Evaluation: what an exported artifact can do, through the runtime that ships it; never torch (extra `eval`: ROUGE).

`edgeskip.evaluation.runner.evaluate` runs tasks on an artifact; `summary.summarize` has the figures of several.
"""
