"""What `edgeskip` offers to Python programs, one module a function; the commands of the command line call the same."""
