"""Scoring models side by side, choosing on validation, and the promotion gate."""
