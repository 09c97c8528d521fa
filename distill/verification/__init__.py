"""Holding a shipped folder's claims against what can be measured here."""

from distill.verification.finding import Finding
from distill.verification.verifying import verify

__all__ = ["Finding", "verify"]
