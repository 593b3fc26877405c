"""The contract that every source of cancelation keeps, ours and users' own."""
