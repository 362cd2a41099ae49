"""Claims of the lecture, one file each: every module here has a `STUDY` (bayes_mbrl/study.py)."""
