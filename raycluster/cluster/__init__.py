"""A cluster of several machines: its file is checked before it costs money, work is sent to it, its health is told."""
