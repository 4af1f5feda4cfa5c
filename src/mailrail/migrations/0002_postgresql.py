"""What PostgreSQL needs beyond the tables, and an index for lanes."""

from typing import Any

from django.db import migrations, models

# The table's rows change all the time, and dead rows slow claims down. So vacuum runs by their number, not by their
# share of a backlog, and as fast as the disk allows. Giving back the end of the file would lock everybody out.
SETTINGS = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "100000",
    "autovacuum_vacuum_cost_delay": "0",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "10000",
    "vacuum_truncate": "off",
}


def forward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    # Places in lanes. A sequence knows no snapshots: whoever holds the lane's lock gets a higher number than the last.
    schema_editor.execute("CREATE SEQUENCE IF NOT EXISTS mailrail_lane_seq")
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    schema_editor.execute(f"ALTER TABLE mailrail_message SET ({settings})")


def backward(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute("DROP SEQUENCE IF EXISTS mailrail_lane_seq")
    schema_editor.execute(f"ALTER TABLE mailrail_message RESET ({', '.join(SETTINGS)})")


class Migration(migrations.Migration):

    dependencies = [("mailrail", "0001_initial")]

    operations = [
        migrations.AddIndex(
            model_name="storedmessage",
            index=models.Index(condition=models.Q(held=1), fields=["channel", "due"], name="mailrail_held"),
        ),
        migrations.RunPython(forward, backward),
    ]
