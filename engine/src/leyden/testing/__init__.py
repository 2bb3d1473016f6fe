"""Contracts of networks, tasks, data and config files, as tests for pytest.

A project's test file imports them, and each file that the project adds is tested from then on:

    from leyden.testing.contracts import *
"""
