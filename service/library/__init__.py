"""The writer inside another program."""
