"""The paper, stage by stage, as recipes."""
