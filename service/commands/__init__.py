"""What the commands of `headrace` do, but for `serve` and `doctor`."""
