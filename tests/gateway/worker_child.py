"""One gateway worker as a process of its own: `worker_child.py SETTINGS_JSON JOURNAL_DIRECTORY`."""

from __future__ import annotations

import sys

import msgspec

from bastide.adapters.journal.file import FileJournalWriter
from bastide.adapters.link.unix import connect
from bastide.gateway.settings import GatewaySettings
from bastide.gateway.worker import run

settings = msgspec.json.decode(sys.argv[1], type=GatewaySettings)
run(settings, FileJournalWriter(sys.argv[2], settings.incarnation), connect)
