"""Tables and pages of results, shared by all commands."""
