"""The first tables.

Written out, not taken from schema.py: a migration must go on meaning what it meant.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    def text(name: str, *, primary_key: bool = False, unique: bool = False) -> sa.Column[str]:
        return sa.Column(name, sa.String, nullable=False, primary_key=primary_key, unique=unique or None)

    def number(name: str) -> sa.Column[int]:
        return sa.Column(name, sa.BigInteger, nullable=False)

    def real(name: str) -> sa.Column[float]:
        return sa.Column(name, sa.Float, nullable=False)

    op.create_table("projects", text("name", primary_key=True), real("created_at_s"))
    op.create_table("services", text("project", primary_key=True), text("name", primary_key=True), text("record"))
    op.create_table(
        "keys", text("key_id", primary_key=True), text("project"), text("key_hash", unique=True), text("record")
    )
    op.create_table(
        "secrets",
        text("project", primary_key=True),
        text("name", primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        real("set_at_s"),
    )
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        text("project"),
        text("service"),
        text("record"),
    )
    op.create_index("decisions_by_service", "decisions", ["project", "service", "number"])
    op.create_table(
        "settlements",
        text("event_id", primary_key=True),
        real("at_s"),
        text("day"),
        text("project"),
        text("service"),
        text("model"),
        text("key_id"),
        text("instance"),
        number("input_tokens"),
        number("cached_input_tokens"),
        number("output_tokens"),
        number("cost_pico"),
        text("outcome"),
        text("account"),
        sa.Column("first_token_s", sa.Float),
        real("duration_s"),
    )
    op.create_index("settlements_by_key", "settlements", ["key_id", "at_s"])
    op.create_index("settlements_by_instance", "settlements", ["instance"])
    op.create_index("settlements_by_time", "settlements", ["at_s"])
    op.create_table(
        "instance_times",
        text("event_id", primary_key=True),
        real("at_s"),
        text("day"),
        text("project"),
        text("service"),
        text("instance"),
        text("phase"),
        real("seconds"),
        number("cost_pico"),
    )
    op.create_index("instance_times_by_time", "instance_times", ["at_s"])
    op.create_table(
        "engine_counts",
        text("instance", primary_key=True),
        text("process", primary_key=True),
        text("project"),
        text("service"),
        number("input_tokens"),
        number("cached_input_tokens"),
        number("output_tokens"),
    )
    op.create_table("journals", text("journal", primary_key=True), number("position"))
    op.create_table(
        "slices",
        text("key_id", primary_key=True),
        sa.Column("window_start_s", sa.Float, primary_key=True),
        text("worker", primary_key=True),
        number("granted_pico"),
    )
    op.create_table("facts", text("weights_sha256", primary_key=True), text("rung", primary_key=True), text("record"))
    op.create_table("settings", text("name", primary_key=True), text("value"))
