"""What headers and queries say: PostgREST's dialect, and what is ours on top."""
