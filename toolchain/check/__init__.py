"""The gate: a finished run against a baseline from git. Regression, pass, or not enough evidence; never a guess."""
