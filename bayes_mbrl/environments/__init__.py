"""Gymnasium's one home: the adapter, and what is known about some environments. Loads nothing itself."""
