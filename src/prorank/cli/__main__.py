"""`python -m prorank.cli`: the same as the command `prorank`."""

from prorank.cli.entry import main

main()
