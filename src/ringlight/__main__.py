"""`python -m ringlight`."""

from ringlight.cli.entry import main

main()
