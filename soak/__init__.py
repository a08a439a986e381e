"""`make soak`: a rendered service under faults, and the account of every event that it accepted."""
