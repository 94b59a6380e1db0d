"""The command line: one file for each command, with ``add_arguments`` and ``run``."""
