"""What is learned: a loss, its metrics, its optimizer."""
