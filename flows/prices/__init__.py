"""Prices and windows of one stock or of a pool."""
