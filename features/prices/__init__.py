"""Price files to validated bars: reading, schema, repairs, history and quality."""
