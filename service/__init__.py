"""The HTTP service: settings, command line, the lanes that requests take, and the wiring of `batching` and `sql`."""
