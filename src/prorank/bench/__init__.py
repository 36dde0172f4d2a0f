"""Benchmarks: prorank beside other libraries, same weights and inputs, one command each."""
