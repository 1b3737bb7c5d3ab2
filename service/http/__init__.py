"""How requests come in and answers go out on a connection."""
