"""The Astro API in its three generations: v1, iam v1beta1 and v1alpha1."""
