"""The sections of the report, each from plain results to a list of parts."""
