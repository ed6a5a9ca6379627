"""What every other room may use: errors, files, numbers, names of sublayers, the terminal. Imports nothing above it."""
