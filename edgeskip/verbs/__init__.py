"""One verb, one module, one typed function; the command line is derived from them."""
