"""Who may write: principals, API keys, JWT."""
