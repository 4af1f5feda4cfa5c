"""Email invitations, sent in the background: the app ``"mailrail.invitations"``."""
