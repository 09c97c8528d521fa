"""The parts of the benchmark of families: a file a part, each with `make(bench) -> figures`."""
