"""What a cluster consumed becomes usage, usage becomes cost, and cost becomes a bill."""
