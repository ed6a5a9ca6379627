"""The parts of `tools/benchmarks/peer_runtimes.py`: environments, model files, workers, figures, report."""
