"""Control of several nodes: how many copies of each service, where, and who gives way. Nothing that runs on one machine imports it."""
