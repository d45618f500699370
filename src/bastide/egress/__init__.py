"""The way out of a box: a proxy on a Unix socket of its own, the only thing that leads anywhere. No root is needed."""
