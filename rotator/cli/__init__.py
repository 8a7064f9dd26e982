"""The command line: each command builds one value and calls one function."""
