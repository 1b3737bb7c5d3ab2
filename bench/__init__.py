"""The benchmark: an HTTP client of the service and of other ways to insert rows. `python -m bench`, or `make bench`.

Imports nothing of `batching`, `sql` and `service` (`bench/baselines/` excepted), so that it measures what clients see.
"""
