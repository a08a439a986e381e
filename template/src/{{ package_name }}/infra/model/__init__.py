"""Models: their choice, budget, retries and circuit breakers."""
