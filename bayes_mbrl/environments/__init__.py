"""Gymnasium's home: environments, their known rewards and terminations, and the adapter."""
