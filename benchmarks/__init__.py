"""Measures dstack beside its peers; `benchmarks/run` starts it, docs/benchmarks.md describes it."""
