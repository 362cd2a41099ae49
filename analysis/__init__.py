"""Samples to judgement: uncertainty, diagnostics and pictures. Imports no other part of the project."""
