"""A run as sections of a report: each module answers one question from what a run left behind."""
