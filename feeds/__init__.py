"""What we are told: fetch, parse, merge, publish to Redis, compile the index, keep the analysts' overrides."""
