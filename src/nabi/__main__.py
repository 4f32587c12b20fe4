"""``python -m nabi``: the command line."""

from nabi.cli import main

main()
