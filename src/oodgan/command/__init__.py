"""The command line: parsing of arguments, checks of the composed configuration, help, completion and error messages."""
