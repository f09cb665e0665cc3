"""Price sources, trading sessions, and bars with their quality as artifacts."""
