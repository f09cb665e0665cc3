"""Benchmark flows: known markets and the published protocol."""
