"""Tables and pages of results, the same for every command that shows some."""
