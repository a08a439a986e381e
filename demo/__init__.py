"""Shows the agent at work: real events in, an action out."""
