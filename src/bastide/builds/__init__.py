"""From a directory of code to something that can be started: sources by content, detection, dependencies, kept builds."""
