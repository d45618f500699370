"""The nouns of Bastide. Standard library only; no clock, no chance, no input or output."""
