"""Benchmarks: speed and memory measured side by side, and studies too long for the tests.

``python -m benchmarks [NAME …]`` runs some or all, prints their tables and writes them into ``benchmarks/RESULTS.md``.
"""
