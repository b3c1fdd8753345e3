"""`python -m ringlight`."""

from ringlight.cli.main import main

main()
