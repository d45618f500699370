"""The sections of benchmarks/EVALUATION.md, one for each evaluation: its text, tables and plots from its rows."""
