"""Other evaluation suites' formats."""
