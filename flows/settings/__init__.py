"""The configuration of a run, from recipe, flags and overrides, and its explicit files."""
