"""The report of a comparison: HTML, Markdown, tables, figures and wording."""
