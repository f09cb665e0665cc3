"""Benchmarks against known optima and against the published protocol."""
