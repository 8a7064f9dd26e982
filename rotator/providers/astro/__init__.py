"""The Astro API in its three generations: v1, iam v1beta1 and v1alpha1."""

import sys

# httpx tries to import its own command line, and with it all of rich; where it cannot, it does without.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
