"""Measured cells that come with the library, as ``examples/measured_tables.py`` writes them.

``rram-a``, ``rram-b``: derived from github.com/akashlevy/RRAM-Relaxation-Master-Model, under the MIT licence in
``LICENSE.txt``.
"""
