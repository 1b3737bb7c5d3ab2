"""What is counted, logged and traced, and what is made of it for those who look."""
