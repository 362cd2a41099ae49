"""p(θ | D): models, and every way to sample their posterior. Imports no other part of the project."""
