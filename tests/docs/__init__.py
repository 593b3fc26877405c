"""The pages for users: their code runs, their links lead somewhere."""
