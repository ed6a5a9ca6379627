"""What the scripts that make figures share: options, worker processes, rounds in turns, tables and one form of JSON."""
