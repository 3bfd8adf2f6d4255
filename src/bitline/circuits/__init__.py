"""Circuits: ngspice on column netlists, and exact solves of resistive arrays."""
