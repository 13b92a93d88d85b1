"""Credentials become a principal, and a principal's request a decision: who may do and see what."""
