"""`python -m` is the command line."""

from .cli import main

main()
