"""Take an email: check it, store it, and send the message that has it delivered."""
