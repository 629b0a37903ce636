"""SELF-JUDGE: one model as policy and judge."""
