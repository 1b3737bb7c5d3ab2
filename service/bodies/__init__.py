"""Bodies on their way in, and how each kind becomes JSON or NDJSON."""
