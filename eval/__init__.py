"""Evaluation: answers of several arms on the same cases, measures with intervals, a report page."""
