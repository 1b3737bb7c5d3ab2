"""`headrace doctor`: facts, and what is said of them."""
