"""The shipped policies beside published ones, on public traces. Owns the baselines and metrics; policy knows neither.

Needs the extra `bastide[sim]`. Each evaluation yields one row per workload or trace, policy and seed.
"""
