"""The paper's tables and figures, recomputed and held against what it prints."""
