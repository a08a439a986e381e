"""What `check` looks at: each module finds the faults of one part of a service."""
