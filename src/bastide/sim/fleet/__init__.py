"""A fleet in virtual time: the shipped policies decide, and only nodes, engines, links and the clock are made up.

Needs the extra `bastide[sim]`. `setup` says what a world is made of, `world` runs it.
"""
