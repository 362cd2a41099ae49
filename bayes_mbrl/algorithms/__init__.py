"""Agents and their learning loops: one file for each rung of the lecture's ladder."""
