"""Search for a plan: sublayers are skipped on a torch model one after the other, and the loss is measured."""
