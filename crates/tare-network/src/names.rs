//! Names: the server at 127.0.0.11 in a container's network namespace.
