"""What a job may import of dstack: the runner puts this folder at the end of a job's PYTHONPATH.

`import dstack` then works in any environment; the package in it needs nothing but Python 3.7 and its standard library.
"""
