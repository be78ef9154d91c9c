"""Where the controller keeps every fact: a narrow port and what implements it."""
