"""The console: pages that show what the agent perceives, remembers and decides, and let operators act."""
