"""The web page of `oodgan serve`: sessions, components, and server."""
