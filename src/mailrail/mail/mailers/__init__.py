"""Know the mailers: settings, rates, connections, pauses and outages."""
