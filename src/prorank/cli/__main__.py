"""`python -m prorank.cli`: the same as the command `prorank`."""

from prorank.cli.main import main

main()
