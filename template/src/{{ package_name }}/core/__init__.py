"""The vocabulary: events, the context they gather in, and what a decision may use."""
