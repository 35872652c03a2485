"""Questions with known answers: rows, the formats of published sets, lettered choices, and scoring."""
