"""The parts of `tools/bench_peers.py`: environments, model files, workers, figures, report."""
