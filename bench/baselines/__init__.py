"""The servers and commands that the benchmark compares, each in a file of its own and run as a process of its own."""
