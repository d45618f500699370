"""Pure translators, one file per engine: what was declared -> how to start it; what it says -> what it means."""
