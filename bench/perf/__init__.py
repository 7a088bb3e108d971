"""Speed studies: our way of working against the published scripts', run by hand (pytest bench/perf)."""
