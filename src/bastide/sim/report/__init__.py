"""Results of simulations for people and programs: terminal, HTML, JSON, Parquet. Measures nothing."""
