"""The domain: events, the context in which they gather, and the dependencies of a decision."""
