"""A plan becomes a run: the only folder that imports ray.data."""
