"""Settings of runs: `schema` defines them, `validate` checks them, `io` and `sections` read them, `provenance` keeps them."""
