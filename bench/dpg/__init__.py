"""DPG-Bench (ELLA, Hu et al. 2024): questions about dense prompts, answered by a VQA model; three variants."""
