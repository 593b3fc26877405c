"""The bus: one suite for every bus, and what happens to the one with a broker when things break."""
