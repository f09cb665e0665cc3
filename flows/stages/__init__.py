"""Flows of single stages."""
