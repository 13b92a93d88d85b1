"""raycluster: mixed media corpora become searchable, versioned Lance datasets on Ray."""

__version__ = "0.1.0"
