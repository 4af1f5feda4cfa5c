"""Other queues, each with a task that costs nothing, at the settings its documentation recommends for speed."""
