"""The proof of the one promise: nothing is lost, whatever dies or fails, and whenever."""
