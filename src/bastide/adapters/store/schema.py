"""The tables, for SQLAlchemy. Changing them means a new migration beside this file."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

projects = Table("projects", metadata, Column("name", String, primary_key=True), Column("created_at_s", Float))

services = Table(
    "services",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("record", Text, nullable=False),  # DesiredService as JSON
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("key_hash", String, nullable=False, unique=True),
    Column("record", Text, nullable=False),  # KeyGrant as JSON
)

secrets = Table(
    "secrets",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("set_at_s", Float, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("project", String, nullable=False),
    Column("service", String, nullable=False),
    Column("record", Text, nullable=False),
    Index("decisions_by_service", "project", "service", "number"),
)

settlements = Table(
    "settlements",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("at_s", Float, nullable=False),
    Column("day", String, nullable=False),
    Column("project", String, nullable=False),
    Column("service", String, nullable=False),
    Column("model", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("instance", String, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_pico", BigInteger, nullable=False),
    Column("outcome", String, nullable=False),
    Column("account", String, nullable=False),
    Column("first_token_s", Float),
    Column("duration_s", Float, nullable=False),
    Index("settlements_by_key", "key_id", "at_s"),
    Index("settlements_by_instance", "instance"),
    Index("settlements_by_time", "at_s"),
)

instance_times = Table(
    "instance_times",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("at_s", Float, nullable=False),
    Column("day", String, nullable=False),
    Column("project", String, nullable=False),
    Column("service", String, nullable=False),
    Column("instance", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("cost_pico", BigInteger, nullable=False),
    Index("instance_times_by_time", "at_s"),
)

engine_counts = Table(
    "engine_counts",
    metadata,
    Column("instance", String, primary_key=True),
    Column("process", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("service", String, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)

journals = Table(
    "journals", metadata, Column("journal", String, primary_key=True), Column("position", BigInteger, nullable=False)
)

slices = Table(
    "slices",
    metadata,
    Column("key_id", String, primary_key=True),
    Column("window_start_s", Float, primary_key=True),
    Column("worker", String, primary_key=True),
    Column("granted_pico", BigInteger, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("weights_sha256", String, primary_key=True),
    Column("rung", String, primary_key=True),
    Column("record", Text, nullable=False),
)

settings = Table("settings", metadata, Column("name", String, primary_key=True), Column("value", Text, nullable=False))
