"""Many runs: planned, carried out, and what they found as tables."""
