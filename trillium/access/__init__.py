"""Who may do what: roles, the table of RPCs, and how a caller proves who it is."""
