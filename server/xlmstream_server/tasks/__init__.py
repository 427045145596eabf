"""The typed tasks: one small file for each family, all of the shape that `base` describes."""
