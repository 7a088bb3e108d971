"""The small world: scenes of coloured shapes, their pictures, prompts, detector and pre-trained sources."""
