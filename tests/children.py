"""Processes of their own for what is to be killed; they come from one clean process that has imported prorank once."""

import multiprocessing

CHILDREN = multiprocessing.get_context("forkserver")  # the tests' own process has threads, and may have a GPU
CHILDREN.set_forkserver_preload(["prorank.pipeline.run"])


def started(work, *arguments):
    """A running process that calls `work`, a function of a module."""
    process = CHILDREN.Process(target=work, args=arguments)
    process.start()
    return process
