"""The APIs that own tokens and rotate them, one package each."""
