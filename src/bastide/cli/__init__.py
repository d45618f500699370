"""The command line: a client of the sdk, with no private doors. Tables for people, --json for programs."""
