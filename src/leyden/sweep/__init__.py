"""Many runs as one thing: which, where, and what came of them."""
