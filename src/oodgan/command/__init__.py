"""The command line: what is typed, what it composes to, what is said when it is wrong."""
