"""Walks over several parts: a trained network verified on its circuit."""

from bitline.flows.verify import Conversions, on_behaviour, verify

__all__ = ["Conversions", "on_behaviour", "verify"]
