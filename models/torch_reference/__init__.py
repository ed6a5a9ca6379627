"""The torch model that everything is checked against: loading, its blocks, hooks that skip sublayers."""
