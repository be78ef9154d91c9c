"""The house: what must hold of the code and its words as a whole."""
