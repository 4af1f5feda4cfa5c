"""Run tasks and send messages by a timetable."""
