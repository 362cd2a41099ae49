"""The pages of the site: those of docs/ as they stand, and those that are made of code and of findings."""
