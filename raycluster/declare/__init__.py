"""YAML files become frozen values, or a list of everything that is wrong with them, each with file, line and column."""
