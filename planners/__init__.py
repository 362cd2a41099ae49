"""Plans from scores: objectives, propagations and searches. Imports no other part of the project."""
