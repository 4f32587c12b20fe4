"""Pages for people: sections as plain data, drawn as one self-contained HTML page, or told in Markdown."""
