"""Walks over several parts: a trained network verified on its circuit."""

from bitline.flows.conversions import Conversions
from bitline.flows.verify import on_behaviour, verify

__all__ = ["Conversions", "on_behaviour", "verify"]
