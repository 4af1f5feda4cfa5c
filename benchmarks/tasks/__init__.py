"""What tasks cost: run, enqueued, and finished, beside messages and beside other backends of the same machine."""
