"""Settings of runs: `schema` defines, `validate` validates, `io` and `sections` read, and `provenance` saves them."""
