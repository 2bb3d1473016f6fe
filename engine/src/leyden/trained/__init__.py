"""A trained run put to use: loaded, evaluated, exported, asked for predictions, and reproduced."""
