"""What people see in a browser: the dashboard, the documentation, and the description of all tables."""
