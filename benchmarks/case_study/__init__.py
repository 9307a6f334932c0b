"""The paper's case study (Table 6, Figure 5) on the running system."""
