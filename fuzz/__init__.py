"""`make fuzz`: a rendered service under hostile input, and what it did with each piece of it."""
