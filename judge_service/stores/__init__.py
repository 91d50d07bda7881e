"""Where reads are kept: a file of SQLite for one machine, PostgreSQL for several."""
