"""What runs on every node: starts engines, puts them to sleep, wakes them, adopts survivors, reports."""
