"""The web page of `oodgan serve`: its sessions, its components, and the server around them."""
