"""How trained numbers change: the optimiser, its rate, and which records it sees."""
